//! Where the model comes from and where it lies.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use llama_diffusion::model::file::ModelFile;
use llama_diffusion::model::masked::is_masked;
use llama_diffusion::{
    AnyModel, Error, MetadataOverride, ModelParams, Result, SessionParams, TextModel, hub,
};

use crate::demo;
use crate::devices::DeviceArgs;
use crate::streams::say;
use crate::values::parse_metadata;

/// Where the model comes from and where it lies.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model and devices")]
pub struct PlacementArgs {
    /// Model file (GGUF), or the first part of a split one. Without it, a small demo model inside
    /// this program is used, if it was built in
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Model file in Hugging Face's cache (LLAMA_CACHE, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME),
    /// Q4_K_M by default. If it is not there, the error names the command that downloads it
    #[arg(long, value_name = "USER/MODEL[:QUANT]")]
    hf_repo: Option<String>,

    /// File in the repository of --hf-repo, instead of one by its quantization
    #[arg(long, value_name = "FILE", requires = "hf_repo")]
    hf_file: Option<String>,

    /// Address of the model file. Nothing is downloaded: the error names the command that does it
    #[arg(long, value_name = "URL")]
    model_url: Option<String>,

    /// Print the devices and exit
    #[arg(long)]
    pub list_devices: bool,

    #[command(flatten)]
    pub devices: DeviceArgs,

    /// How weights come into memory: mmap maps the file, none and dio read it, mlock and mmap+mlock
    /// are the two with --mlock; auto is mmap
    #[arg(long, value_name = "MODE", default_value = "auto")]
    load_mode: LoadMode,

    /// Keep the weights in memory: the system does not swap them out
    #[arg(long, value_parser = BoolishValueParser::new())]
    mlock: bool,

    /// Read all weights while loading and refuse those that are not finite
    #[arg(long)]
    check_tensors: bool,

    /// Use this metadata instead of the file's; TYPE is int, float, bool or str. Several are
    /// separated by commas
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_delimiter = ',', value_parser = parse_metadata)]
    override_kv: Vec<MetadataOverride>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadMode {
    Auto,
    None,
    Mmap,
    Mlock,
    #[value(name = "mmap+mlock")]
    MmapMlock,
    Dio,
}

/// Keys of diffusion that are read, which a slip of the pen may miss.
const DIFFUSION_KEYS: [&str; 9] = [
    "diffusion.canvas_length",
    "diffusion.eb_confidence_threshold",
    "diffusion.eb_entropy_bound",
    "diffusion.eb_max_steps",
    "diffusion.eb_stability_threshold",
    "diffusion.eb_t_max",
    "diffusion.eb_t_min",
    "diffusion.eos_token_ids",
    "diffusion.shift_logits",
];

impl PlacementArgs {
    /// A line for each key of diffusion that nothing reads.
    pub fn metadata_warnings(&self) -> impl Iterator<Item = String> {
        let keys = self.override_kv.iter().map(|metadata| &metadata.key);
        let unknown = keys
            .filter(|key| key.starts_with("diffusion.") && !DIFFUSION_KEYS.contains(&key.as_str()));
        unknown.map(|key| {
            let known = DIFFUSION_KEYS.join(", ");
            format!("--override-kv: nothing reads '{key}'; of diffusion there are {known}")
        })
    }

    /// The model file, if the user chose one.
    ///
    /// # Errors
    /// It is not in the cache, or still in the network.
    pub fn model(&self) -> Result<Option<PathBuf>> {
        match (&self.model, &self.hf_repo, &self.model_url) {
            (Some(path), _, _) => Ok(Some(path.clone())),
            (None, Some(repo), _) => hub::find(repo, self.hf_file.as_deref()).map(Some),
            (None, None, Some(url)) => Err(Error::Input {
                name: "-mu".into(),
                problem: format!(
                    "this tool downloads nothing. Fetch the model with: curl -LO '{url}' and give \
                     the file with -m"
                ),
            }),
            (None, None, None) => Ok(None),
        }
    }

    /// Whether the model was found in the cache, under a name that the user does not know.
    fn is_from_cache(&self) -> bool {
        self.model.is_none() && self.hf_repo.is_some()
    }

    /// Where the model lies, and what is asked of loading it. GPUs are to have memory for such a
    /// session, too.
    pub fn params(&self, session: SessionParams) -> ModelParams {
        use LoadMode::{Dio, Mlock, MmapMlock, None};
        let devices = self.devices.params(session);
        ModelParams {
            lock: self.mlock || matches!(self.load_mode, Mlock | MmapMlock),
            no_mmap: devices.no_mmap || matches!(self.load_mode, None | Mlock | Dio),
            check_tensors: self.check_tensors,
            metadata: self.override_kv.clone(),
            ..devices
        }
    }

    /// Loads the model, or the demo model if none was chosen. For a canvas model, GPUs are to have
    /// memory for such a `session`, too. What the user may not know is said unless `quiet`.
    ///
    /// # Errors
    /// As [`TextModel::load`], those of `session`, or a device cannot be used.
    pub fn load(
        &self,
        session: &dyn Fn() -> Result<SessionParams>,
        quiet: bool,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<TextModel> {
        let path = self.model()?;
        self.devices.connect()?;
        if let Some(path) = path.as_ref().filter(|_| self.is_from_cache() && !quiet) {
            say(format_args!("model: {}", path.display()));
        }
        self.devices.warn()?;
        match &path {
            Some(path) => {
                let file = ModelFile::open(path)?;
                let params = match is_masked(&file)? {
                    true => self.params(SessionParams::default()),
                    false => self.params(session()?),
                };
                TextModel::new(AnyModel::from_file(file, &params, progress)?)
            }
            None => demo::load(&self.params(session()?), quiet, progress),
        }
    }
}

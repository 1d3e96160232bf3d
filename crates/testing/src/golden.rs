//! Golden cases: small random models with traces of Hugging Face transformers, as
//! `tests/golden/README.md` documents them.

use std::path::{Path, PathBuf};

use llama_diffusion::Token;
use llama_diffusion::diffusion::Template;
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Meta {
    pub format: u32,
    pub prompt_length: usize,
    pub canvas_length: usize,
    pub vocab_size: usize,
    pub layers: Vec<LayerMeta>,
    pub sliding_window: usize,
    pub self_conditioning_temperature: f32,
    pub generation: GenerationMeta,
    pub blocks: usize,
    pub steps: usize,
    pub margins: Margins,
    /// For each canvas from the first one on, the positions that hold a token at every step.
    #[serde(default)]
    pub pins: Vec<Vec<(usize, Token)>>,
}

#[derive(Deserialize)]
pub struct Margins {
    /// The smallest margin of all choices of experts; none where all experts run.
    pub router: Option<f64>,
}

#[derive(Deserialize)]
pub struct LayerMeta {
    pub sliding: bool,
}

#[derive(Deserialize)]
pub struct GenerationMeta {
    pub max_new_tokens: usize,
    pub max_denoising_steps: u32,
    pub t_min: f32,
    pub t_max: f32,
    pub entropy_bound: f32,
    pub stability_threshold: u32,
    pub confidence_threshold: f32,
    pub eos_token_ids: Vec<Token>,
    pub pad_token_id: Option<Token>,
}

pub struct Case {
    pub dir: PathBuf,
    pub meta: Meta,
    bytes: Vec<u8>,
}

impl Case {
    pub fn open(dir: PathBuf) -> Self {
        let meta = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let meta: Meta = serde_json::from_str(&meta).unwrap();
        assert_eq!(meta.format, 1, "{}: unknown format", dir.display());
        let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
        Self { dir, meta, bytes }
    }

    /// All cases: those of the repository, and those of `DIFFUSION_GOLDEN_DIR`.
    pub fn all() -> Vec<Self> {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let more = std::env::var_os("DIFFUSION_GOLDEN_DIR").map(PathBuf::from);
        let mut dirs: Vec<PathBuf> = [Some(kept), more]
            .into_iter()
            .flatten()
            .flat_map(|folder| {
                let entries = std::fs::read_dir(&folder)
                    .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
                // A folder that is a case itself counts as one.
                entries.map(|e| e.unwrap().path()).chain([folder])
            })
            .filter(|dir| dir.join("golden.json").is_file())
            .collect();
        dirs.sort();
        assert!(dirs.len() >= 10, "the repository's cases are missing");
        dirs.into_iter().map(Self::open).collect()
    }

    /// What is known about its canvases; nothing, if it has no pins.
    pub fn templates(&self) -> Vec<Template> {
        let template = |pins: &Vec<(usize, Token)>| {
            let mut template = Template::new();
            let last = pins.iter().map(|(position, _)| *position).max();
            for position in 0..last.map_or(0, |last| last + 1) {
                match pins.iter().find(|(pinned, _)| *pinned == position) {
                    Some((_, token)) => template.fixed(&[*token]),
                    None => template.free(),
                };
            }
            template
        };
        self.meta.pins.iter().map(template).collect()
    }

    pub fn name(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.chunks(name, f32::from_le_bytes)
    }

    pub fn tokens(&self, name: &str) -> Vec<Token> {
        self.chunks(name, Token::from_le_bytes)
    }

    pub fn flags(&self, name: &str) -> Vec<bool> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .iter()
            .map(|b| *b != 0)
            .collect()
    }

    fn chunks<T>(&self, name: &str, read: fn([u8; 4]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|e| panic!("{}: {name}: {e}", self.dir.display()));
        tensor
            .data()
            .chunks_exact(4)
            .map(|c| read(c.try_into().unwrap()))
            .collect()
    }
}

//! `quantize`: converts the matrices of a model to a smaller type, with llama-quantize's flags.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::quantize::{
    FileType, ImportanceMatrix, Mix, Plan, PlannedTensor, QuantizeParams, TypeOverride,
};
use llama_diffusion::{CancelFlag, Result};
use regex::Regex;

use crate::progress;
use llama_diffusion_flags::numbers::whole;
use llama_diffusion_flags::streams::say;

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

#[derive(Debug, clap::Args)]
pub struct QuantizeArgs {
    /// Model file (GGUF) in F32, F16 or BF16, or the first part of a split one
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// File to write; it is replaced only when everything is written
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// Type of the file, in upper or lower case, or llama.cpp's number for it
    #[arg(value_name = "TYPE", value_parser = FileTypeParser)]
    file_type: FileType,

    /// Threads, as for llama-quantize
    #[arg(value_name = "NTHREADS", conflicts_with = "threads", value_parser = whole(0..=usize::MAX))]
    nthreads: Option<usize>,

    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = whole(i32::MIN..=i32::MAX))]
    threads: Option<i32>,

    /// Importance matrix of llama-imatrix, in GGUF or its older format: gives more weight to errors
    /// where activations are large
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,

    /// Accept a model that is already quantized; its errors are added to the new ones
    #[arg(long)]
    allow_requantize: bool,

    /// Leave the output head as it is; it is the embedding if the file has no other
    #[arg(long)]
    leave_output_tensor: bool,

    /// All matrices in the same type, none in a better one
    #[arg(long)]
    pure: bool,

    /// Type of the matrices whose names match a regular expression; may be repeated, and the first
    /// match applies
    #[arg(long, value_name = "REGEX=TYPE", value_parser = parse_override)]
    tensor_type: Vec<TypeOverride>,

    /// Type of the output head
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<TensorType>,

    /// Type of the embedding
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<TensorType>,
}

/// The name of a type; llama.cpp's number and its short name are not listed.
fn possible_value(ty: &FileType) -> PossibleValue {
    let value = PossibleValue::new(ty.name()).alias(ty.id().to_string());
    match ty.name().strip_suffix("_M") {
        Some(short) => value.alias(short),
        None => value,
    }
}

/// Accepts the names in upper or lower case, and suggests the nearest for an unknown one.
#[derive(Clone)]
struct FileTypeParser;

impl TypedValueParser for FileTypeParser {
    type Value = FileType;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<FileType, clap::Error> {
        let names = PossibleValuesParser::new(FileType::ALL.iter().map(possible_value));
        let parser = names.try_map(|text| {
            let is_it = |ty: &&FileType| possible_value(ty).matches(&text, false);
            let known = FileType::ALL.iter().find(is_it).copied();
            known.map_or_else(|| text.parse(), Ok)
        });
        parser.parse_ref(command, arg, &value.to_ascii_uppercase())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(FileType::ALL.iter().map(possible_value)))
    }
}

fn parse_override(text: &str) -> Result<TypeOverride, String> {
    let (pattern, ty) = text
        .rsplit_once('=')
        .ok_or_else(|| "write a pattern and a type, such as ffn_down=q6_k".to_owned())?;
    Ok(TypeOverride {
        pattern: Regex::new(pattern).map_err(|error| error.to_string())?,
        ty: ty.parse()?,
    })
}

impl QuantizeArgs {
    fn params(&self) -> Result<QuantizeParams> {
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open);
        // llama.cpp's tools treat 0 and less as one thread for each core.
        let threads = self.threads.and_then(|threads| threads.try_into().ok());
        Ok(QuantizeParams {
            mix: Mix {
                pure: self.pure,
                leave_output: self.leave_output_tensor,
                output: self.output_tensor_type,
                embedding: self.token_embedding_type,
                overrides: self.tensor_type.clone(),
                ..Mix::of(self.file_type)
            },
            allow_requantize: self.allow_requantize,
            importance: importance.transpose()?,
            threads: threads.or(self.nthreads).filter(|threads| *threads > 0),
        })
    }
}

impl QuantizeArgs {
    /// A line for each type that was requested by name and does not divide the rows of a matrix.
    fn substitutes(&self, plan: &Plan) -> Vec<String> {
        let tied = plan.tensors().iter().all(|t| t.name != OUTPUT);
        let chosen = |tensor: &PlannedTensor| {
            let is_embedding = tensor.name == EMBEDDING;
            let is_output = tensor.name == OUTPUT || (tied && is_embedding);
            let overridden = || {
                let mut overrides = self.tensor_type.iter();
                overrides.find(|o| o.pattern.is_match(&tensor.name))
            };
            (self.token_embedding_type.filter(|_| is_embedding))
                .or(self.output_tensor_type.filter(|_| is_output))
                .or_else(|| overridden().map(|o| o.ty))
        };
        let mut names: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for tensor in plan.tensors() {
            let [row, rows, ..] = tensor.shape;
            if let Some(ty) = chosen(tensor).filter(|ty| ty.row_bytes(row).is_none() && rows > 1) {
                let key = (ty.name(), tensor.to.name());
                names.entry(key).or_default().push(&tensor.name);
            }
        }
        let line = |((ty, to), names): (_, Vec<_>)| {
            let names = names.join(", ");
            format!("{to} stands for {ty} where its blocks do not divide the rows: {names}")
        };
        names.into_iter().map(line).collect()
    }
}

/// Writes the file, and describes it on the standard error.
///
/// # Errors
/// As [`Plan::new`] and [`Plan::write`].
pub fn run(args: &QuantizeArgs, cancel: &CancelFlag) -> Result<()> {
    let plan = Plan::new(&args.input, args.params()?)?;
    for line in args.substitutes(&plan) {
        tracing::warn!("{line}");
    }
    progress::show("quantizing", false, cancel, |progress| {
        plan.write(&args.output, progress)
    })?;
    let mut counts = BTreeMap::new();
    for tensor in plan.tensors() {
        *counts.entry(tensor.to.name()).or_insert(0) += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(ty, n)| format!("{n} {ty}")).collect();
    let (before, after) = plan.bytes();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    say(format_args!(
        "{}: {:.1} MiB -> {:.1} MiB, {:.2} bits per weight; tensors: {}",
        args.output.display(),
        mib(before),
        mib(after),
        after as f64 * 8.0 / plan.elements().max(1) as f64,
        counts.join(", ")
    ));
    Ok(())
}

//! `cross-entropy`: a table of how well models denoise known answers, for comparing types of
//! weights.

use std::mem;
use std::path::{Path, PathBuf};

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::internal::measure::cross_entropy::{Exchange, NOISE_LEVELS, Score, score};
use llama_diffusion::{CancelFlag, Error, ModelParams, Result, SessionParams, TextModel, Token};
use serde::Deserialize;
use serde_json::Map;

use crate::progress;
use llama_diffusion_flags::input;
use llama_diffusion_flags::numbers::whole;
use llama_diffusion_flags::streams::print;

#[derive(Debug, clap::Args)]
pub struct CrossEntropyArgs {
    /// File of JSON lines, each with "prompt" and "answer", or with "messages" of which the last is
    /// the model's
    #[arg(value_name = "ANSWERS")]
    pub answers: PathBuf,

    /// Model files (GGUF), which are compared with the first
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<PathBuf>,

    /// Threads of the CPU; 0 or less is one for each core, fewer for a small model
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        env = "LLAMA_ARG_THREADS", value_parser = whole(i32::MIN..=i32::MAX))]
    threads: i32,

    /// Seed of the noise
    #[arg(short, long, value_name = "SEED", default_value = "1", value_parser = whole(0..=u64::MAX))]
    seed: u64,
}

/// A line of the file.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    messages: Vec<Message>,
    /// A last message of the user.
    prompt: Option<String>,
    /// A last message of the model.
    #[serde(alias = "expected")]
    answer: Option<String>,
}

impl Line {
    /// The conversation up to the answer, and the answer.
    fn split(self) -> Option<(Vec<Message>, Message)> {
        let mut messages = self.messages;
        let last = [(Role::User, self.prompt), (Role::Assistant, self.answer)];
        let last = last.into_iter();
        messages.extend(last.filter_map(|(role, text)| Some(Message::new(role, text?))));
        let answer = messages.pop()?;
        (answer.role == Role::Assistant && !messages.is_empty()).then_some((messages, answer))
    }
}

fn read(path: &Path) -> Result<Vec<(Vec<Message>, Message)>> {
    let problem = |problem: String| Error::Input {
        name: path.display().to_string(),
        problem,
    };
    let text = input::file(path)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let exchanges: Vec<_> = lines
        .map(|(i, line)| {
            let parsed: Line = serde_json::from_str(line)
                .map_err(|error| problem(format!("line {}: {error}", i + 1)))?;
            parsed.split().ok_or_else(|| {
                let wanted =
                    "expected \"prompt\" and \"answer\", or \"messages\" with the model's last";
                problem(format!("line {}: {wanted}", i + 1))
            })
        })
        .collect::<Result<_>>()?;
    match exchanges.is_empty() {
        true => Err(problem("it has no lines: give at least one answer".into())),
        false => Ok(exchanges),
    }
}

/// The tokens of a conversation: those of the answer are what the chat template makes of it, up to
/// the first token that ends it.
fn tokenize(text: &TextModel, conversation: &[Message], answer: &Message) -> Result<Exchange> {
    let template = text.chat_template()?.ok_or_else(|| {
        Error::ChatTemplate("the model has none, so its turns are unknown".into())
    })?;
    let tokens = |messages: &[Message]| text.chat_prompt(&template, messages, Map::new());
    let prompt = tokens(conversation)?;
    let whole = tokens(&[conversation, std::slice::from_ref(answer)].concat())?;
    let end = text.end_tokens()?;
    let rest = whole.strip_prefix(&prompt[..]);
    let length = rest.and_then(|rest| rest.iter().position(|token| end.ids.contains(token)));
    match (rest, length) {
        (Some(rest), Some(length)) => Ok(Exchange {
            prompt,
            answer: rest[..=length].to_vec(),
        }),
        _ => Err(Error::ChatTemplate(format!(
            "the turn of the answer {:?} does not continue the prompt and end with an end token",
            answer.content
        ))),
    }
}

/// Prints a row for each model.
///
/// # Errors
/// The file of answers or a model cannot be used.
pub fn run(args: &CrossEntropyArgs, cancel: &CancelFlag) -> Result<()> {
    let exchanges = read(&args.answers)?;
    // Printed with the first row, so that an error appears alone.
    let mut head = head();
    let mut first: Option<Vec<f64>> = None;
    for path in &args.models {
        // Some products of damaged weights are finite, but wrong.
        let params = ModelParams {
            check_tensors: true,
            ..ModelParams::default()
        };
        let model = progress::show("loading", false, cancel, |progress| {
            TextModel::load(path, &params, progress)
        })?;
        let scores = progress::show("scoring", false, cancel, |progress| {
            scores(args, &model, &exchanges, progress)
        })
        .map_err(|error| match error {
            // The one of several models.
            Error::NotFinite { .. } => Error::Gguf {
                path: path.clone(),
                problem: error.to_string(),
            },
            error => error,
        })?;
        let means: Vec<f64> = scores.iter().map(Score::mean).collect();
        let first = first.get_or_insert_with(|| means.clone());
        let differences: Vec<f64> = means.iter().zip(first).map(|(a, b)| a - *b).collect();
        let levels = (0..NOISE_LEVELS.len())
            .map(|i| format!("{:.5}", mean(scores.iter().map(|score| score.levels[i]))));
        let file = model.model().file();
        let elements: usize = file
            .tensors()
            .map(|(_, tensor)| tensor.info.shape.iter().product::<usize>())
            .sum();
        let row = format!(
            "| {} | {:.2} | {} | {:.5} | {:.5} | {:+.5} | {:.5} | {:.1} % |",
            path.file_name().unwrap_or(path.as_os_str()).display(),
            file.tensor_bytes() as f64 * 8.0 / elements.max(1) as f64,
            levels.collect::<Vec<_>>().join(" | "),
            mean(means.iter().copied()),
            standard_error(&means),
            mean(differences.iter().copied()),
            standard_error(&differences),
            100.0 * mean(scores.iter().map(|score| score.top1)),
        );
        print(&format!("{}{row}\n", mem::take(&mut head)))?;
    }
    Ok(())
}

fn head() -> String {
    let levels = NOISE_LEVELS.map(|level| format!("{:.0} % noise", level * 100.0));
    format!(
        "| model | bits per weight | {} | mean | ± | against the first | ± | likeliest |\n|---{}|\n",
        levels.join(" | "),
        "|---:".repeat(levels.len() + 6)
    )
}

fn scores(
    args: &CrossEntropyArgs,
    text: &TextModel,
    exchanges: &[(Vec<Message>, Message)],
    progress: &mut dyn FnMut(f32) -> std::ops::ControlFlow<()>,
) -> Result<Vec<Score>> {
    let mut session = text.session(&SessionParams {
        threads: usize::try_from(args.threads).ok().filter(|n| *n > 0),
        ..SessionParams::default()
    })?;
    let pad: Token = text.end_tokens()?.pad.unwrap_or_default();
    let mut scores = Vec::new();
    for (number, (conversation, answer)) in exchanges.iter().enumerate() {
        let exchange = tokenize(text, conversation, answer)?;
        let denoiser = session.canvas_denoiser()?;
        let scored = score(denoiser, &exchange, pad, args.seed, number as u32);
        scores.push(scored.map_err(|error| too_long(args, number, error))?);
        if progress(scores.len() as f32 / exchanges.len() as f32).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(scores)
}

/// The context is that of the model: no flag increases it.
fn too_long(args: &CrossEntropyArgs, number: usize, error: Error) -> Error {
    let Error::ContextFull { context, .. } = error else {
        return error;
    };
    Error::Input {
        name: args.answers.display().to_string(),
        problem: format!(
            "prompt and answer {} do not fit the context of {context} tokens, with whole canvases: \
             shorten them or leave them out",
            number + 1
        ),
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Of the mean, over answers.
fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (n * (n - 1.0).max(1.0))).sqrt()
}

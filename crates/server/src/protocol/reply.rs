//! A parsed request: the work for the engine, and how its answer is written.

use std::time::Duration;

use serde_json::Value;

use super::anthropic_format::AnthropicStream;
use super::assemble::{Assembler, Assembly};
use super::edit_format::EditStream;
use super::error::ApiError;
use super::form_format::FormStream;
use super::format::{Choice, Meta, Stream};
use super::native::Echo;
use super::ranges;
use super::request::Request;
use super::responses::Head;
use super::responses_format::ResponsesStream;
use super::text_format::{Also, TextStream};
use super::turns::StoredRequest;
use super::value::Object;
use super::{
    anthropic_format, chat_format, edit_format, form_format, native_format, responses_format,
    text_format,
};

/// A parsed request.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// For the engine.
    pub request: Request,
    /// For what it gives back.
    pub reply: Reply,
}

/// How an answer is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The protocol.
    pub protocol: Protocol,
    /// What becomes of each answer.
    pub assembly: Assembly,
    /// What the client wants to see.
    pub options: Options,
}

/// The protocol of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// OpenAI's chat.
    Chat,
    /// OpenAI's text completions.
    Text,
    /// Gaps, as Mistral and Inception have them.
    Fim,
    /// llama-server's own completions.
    Native(Box<Echo>),
    /// OpenAI's Responses, with what is known before the answer.
    Responses(Box<Head>),
    /// Anthropic's messages.
    Anthropic,
    /// Edits, with the text that changes.
    Edit(Box<str>),
    /// Forms.
    Form,
}

/// What the client wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Whether it is a stream.
    pub stream: bool,
    /// Answers to each input.
    pub choices: usize,
    /// Answers in all.
    pub answers: usize,
    /// Whether a stream ends with the usage.
    pub include_usage: bool,
    /// Whether passes over the prompt are reported.
    pub progress: bool,
    /// Whether each part of a stream has the timings so far.
    pub timings: bool,
    /// Whether the ids of tokens are shown.
    pub tokens: bool,
    /// Whether log-probabilities are shown.
    pub logprobs: bool,
    /// Whether log-probabilities name tokens by their ids, as vLLM does.
    pub token_ids: bool,
    /// Whether each chunk has the whole text so far, drafts included.
    pub replaced: bool,
    /// Time of silence after which a stream sends a comment, if the client chose one; zero is never.
    pub ping: Option<Duration>,
    /// Fields without effect.
    pub ignored: Vec<String>,
}

impl Options {
    /// What a body says; `ignored` are its fields without effect.
    ///
    /// # Errors
    /// 400 with the field that is wrong.
    pub fn read(
        body: &Object<'_>,
        request: &Request,
        protocol: &Protocol,
        ignored: Vec<String>,
    ) -> Result<Self, ApiError> {
        let is_single = matches!(
            protocol,
            Protocol::Responses(_) | Protocol::Anthropic | Protocol::Form
        );
        if let Some(n) = body
            .any(&["n", "n_cmpl"])
            .filter(|_| is_single && request.choices > 1)
        {
            return Err(
                n.error("an answer of this protocol is a single one: send several requests")
            );
        }
        let stream = body.object("stream_options")?;
        let usage = stream
            .map(|options| options.flag("include_usage"))
            .transpose()?;
        let ping = body.get("sse_ping_interval");
        let ping = ping.map(|field| field.integer(ranges::PING)).transpose()?;
        Ok(Self {
            stream: body.flag("stream")?,
            choices: request.choices,
            answers: request.inputs.len() * request.choices,
            include_usage: usage.unwrap_or(false),
            progress: body.flag("return_progress")?,
            timings: body.flag("timings_per_token")?,
            tokens: body.flag("return_tokens")?,
            logprobs: request.logprobs.is_some(),
            token_ids: false,
            replaced: body.flag("diffusing")?,
            ping: ping.map(|seconds| Duration::from_secs(seconds.max(0) as u64)),
            ignored,
        })
    }
}

impl Reply {
    /// Assembles one answer.
    pub fn assembler(&self) -> Assembler {
        Assembler::new(&self.assembly)
    }

    /// Writes a stream after a prompt of so many tokens.
    pub fn stream(&self, meta: Meta, prompt: usize) -> Box<dyn Stream> {
        let options = self.options.clone();
        match &self.protocol {
            Protocol::Chat => Box::new(chat_format::ChatStream::new(meta, options)),
            Protocol::Text => Box::new(TextStream::new(meta, options, Also::Nothing)),
            Protocol::Fim => Box::new(TextStream::new(meta, options, Also::Message)),
            Protocol::Native(echo) => {
                let echo = echo.as_ref().clone();
                Box::new(native_format::NativeStream::new(meta, options, echo))
            }
            Protocol::Responses(head) => {
                Box::new(ResponsesStream::new(meta, options, head.echo.clone()))
            }
            Protocol::Anthropic => Box::new(AnthropicStream::new(meta, prompt)),
            Protocol::Edit(text) => Box::new(EditStream::new(meta, options, text.clone())),
            Protocol::Form => Box::new(FormStream::new(meta, options)),
        }
    }

    /// Writes whole answers.
    pub fn answer(&self, meta: &Meta, answers: &[Choice]) -> Value {
        match &self.protocol {
            Protocol::Chat => chat_format::answer(meta, &self.options, answers),
            Protocol::Text => text_format::answer(meta, &self.options, answers, Also::Nothing),
            Protocol::Fim => text_format::answer(meta, &self.options, answers, Also::Message),
            Protocol::Native(echo) => native_format::answer(meta, &self.options, echo, answers),
            Protocol::Responses(head) => {
                responses_format::answer(meta, &self.options, &head.echo, answers)
            }
            Protocol::Anthropic => anthropic_format::answer(meta, &self.options, answers),
            Protocol::Edit(text) => edit_format::answer(meta, &self.options, text, answers),
            Protocol::Form => form_format::answer(meta, &self.options, answers),
        }
    }

    /// What is stored of the request with its answer, if that is stored.
    pub fn stored(&self) -> Option<&StoredRequest> {
        match &self.protocol {
            Protocol::Responses(head) => head.stored.as_ref(),
            _ => None,
        }
    }

    /// Writes an error before the first event.
    pub fn error(&self, error: &ApiError) -> Value {
        match &self.protocol {
            Protocol::Anthropic => error.anthropic(),
            _ => error.openai(),
        }
    }
}

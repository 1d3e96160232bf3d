//! From the tokens of an answer to texts: thoughts, answer, and characters that canvases divide.

use std::sync::Arc;

use llama_diffusion::chat::thinking::{CHANNEL_NAME, Section, Splitter};
use llama_diffusion::diffusion::{Original, TokenScore};
use llama_diffusion::form::FilledForm;
use llama_diffusion::{FormAnswer, Result, TextForm, Token, Utf8Stream};

use crate::plans::Filling;
use crate::protocol::answer::{AnswerToken, Canvas, Channel, EndReason, GapEnd, Score, Span};
use crate::served::Served;

/// Reads the tokens of one answer.
pub struct Reader {
    served: Arc<Served>,
    splitter: Splitter,
    /// Bytes of a character that is not complete.
    text: Utf8Stream,
    channel: Channel,
    /// The beginning of a thought, as long as it may be the name of the channel.
    name: Option<String>,
    /// Whether control tokens are spelled out.
    marks: bool,
    thoughts: usize,
    /// The gap that the answer fills, if that is what it does.
    gap: Option<GapReader>,
    /// The edit that it is, if that is what it does.
    edit: Option<EditReader>,
    /// The form that it fills, and the tokens of its prompt.
    form: Option<(Arc<TextForm>, usize)>,
}

/// Reads the answer that fills a gap: where it ends is known at its end.
struct GapReader {
    filling: Filling,
    tokens: Vec<Token>,
    is_closed: bool,
    /// Tokens of the content, without what only stands around it.
    content: Option<usize>,
}

/// Reads the answer that is an edit: what of it is a thought is known at its end, because a thought that
/// has protected text counts as text.
struct EditReader {
    original: Arc<Original>,
    prompt: Vec<Token>,
    tokens: Vec<Token>,
    /// How many of them are read: all before the first mark of a thought.
    read: usize,
    /// Whether the others wait for the end.
    holds: bool,
}

impl Reader {
    /// For an answer to a prompt. `marks` spells out control tokens.
    pub fn new(served: &Arc<Served>, prompt: &[Token], marks: bool) -> Self {
        let splitter = served.model.splitter(prompt);
        let thinks = splitter.is_thinking();
        Self {
            served: Arc::clone(served),
            splitter,
            text: Utf8Stream::new(),
            channel: if thinks {
                Channel::Thought
            } else {
                Channel::Answer
            },
            name: thinks.then(String::new),
            marks,
            thoughts: 0,
            gap: None,
            edit: None,
            form: None,
        }
    }

    /// For an answer that fills a gap.
    pub fn of_gap(served: &Arc<Served>, prompt: &[Token], filling: &Filling) -> Self {
        let gap = GapReader {
            filling: filling.clone(),
            tokens: Vec::new(),
            is_closed: false,
            content: None,
        };
        Self {
            gap: Some(gap),
            ..Self::new(served, prompt, false)
        }
    }

    /// For an answer that is an edit.
    pub fn of_edit(served: &Arc<Served>, prompt: &[Token], original: &Arc<Original>) -> Self {
        let reader = Self::new(served, prompt, false);
        let edit = EditReader {
            original: Arc::clone(original),
            prompt: prompt.to_vec(),
            tokens: Vec::new(),
            read: 0,
            holds: reader.is_thinking(),
        };
        Self {
            edit: Some(edit),
            ..reader
        }
    }

    /// For an answer that fills a form.
    pub fn of_form(served: &Arc<Served>, prompt: &[Token], form: &Arc<TextForm>) -> Self {
        Self {
            form: Some((Arc::clone(form), prompt.len())),
            ..Self::new(served, prompt, false)
        }
    }

    /// A canvas as it is: the text of each position, control tokens as well.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn whole(&self, scores: &[TokenScore]) -> Result<(String, Vec<AnswerToken>)> {
        let token = |score: &TokenScore| {
            Ok(AnswerToken {
                id: score.token,
                bytes: self.served.model.vocab().piece(score.token, true)?,
                score: Some(self.score(score)?),
            })
        };
        let tokens: Vec<AnswerToken> = scores.iter().map(token).collect::<Result<_>>()?;
        let bytes: Vec<&[u8]> = tokens.iter().map(|token| &token.bytes[..]).collect();
        Ok((
            String::from_utf8_lossy(&bytes.concat()).into_owned(),
            tokens,
        ))
    }

    /// What a filled form says, if the answer is one.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn filled(&self, filled: &FilledForm) -> Result<Option<FormAnswer>> {
        let answer = |(form, prompt): &(Arc<TextForm>, usize)| {
            let model = &self.served.model;
            model.form_answer(form, filled, *prompt)
        };
        self.form.as_ref().map(answer).transpose()
    }

    /// Why the answer ended, by what the engine says.
    pub fn reason(&self, reason: EndReason) -> EndReason {
        match &self.gap {
            Some(gap) if reason != EndReason::Stopped => match gap.filling.recipe.report() {
                report if report.timed_out => EndReason::Time,
                report if report.doubtful || !gap.is_closed => EndReason::Length,
                _ => EndReason::EndOfText,
            },
            _ => reason,
        }
    }

    /// What is known about the gap, if the answer fills one.
    pub fn gap(&self) -> Option<GapEnd> {
        let Filling { asked, recipe } = &self.gap.as_ref()?.filling;
        Some(GapEnd {
            truncated: asked.gap.is_truncated(),
            lengths: match asked.request.infill_lengths {
                true => recipe.report().lengths,
                false => Vec::new(),
            },
        })
    }

    /// Tokens of the answer, by what the engine counts.
    pub fn completion(&self, counted: usize) -> usize {
        let gap = self.gap.as_ref();
        gap.and_then(|gap| gap.content).unwrap_or(counted)
    }

    /// Tokens of thoughts so far.
    pub fn thoughts(&self) -> usize {
        self.thoughts
    }

    /// Whether the next token belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }

    /// Where thoughts are separated from the answer.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// The text of the next tokens, with their scores, if there are any.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn read(&mut self, tokens: &[Token], scores: &[TokenScore]) -> Result<Canvas> {
        if let Some(gap) = &mut self.gap {
            gap.tokens.extend_from_slice(tokens);
            return Ok(Canvas::default());
        }
        let tokens = match &mut self.edit {
            Some(edit) => &tokens[..edit.take(tokens, &self.splitter)],
            None => tokens,
        };
        Ok(Canvas {
            spans: self.spans(tokens, scores)?,
        })
    }

    fn spans(&mut self, tokens: &[Token], scores: &[TokenScore]) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let channel = match self.splitter.push(token) {
                Section::Mark => {
                    self.turn(self.channel, &mut spans);
                    self.name = self.splitter.is_thinking().then(String::new);
                    continue;
                }
                Section::Thought => Channel::Thought,
                Section::Answer => Channel::Answer,
            };
            if channel != self.channel {
                self.turn(channel, &mut spans);
            }
            self.thoughts += usize::from(channel == Channel::Thought);
            let bytes = self.served.model.vocab().piece(token, self.marks)?;
            let text = self.text.push(&bytes);
            let text = self.without_name(text);
            let token = AnswerToken {
                id: token,
                bytes,
                score: scores
                    .get(position)
                    .map(|score| self.score(score))
                    .transpose()?,
            };
            append(&mut spans, channel, &text, Some(token));
        }
        Ok(spans)
    }

    /// What was held back, at the end of the answer.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn finish(&mut self) -> Result<Canvas> {
        let mut spans = Vec::new();
        if let Some(edit) = self.edit.take().filter(|edit| edit.holds) {
            let model = &self.served.model;
            let tokens = model.edited_tokens(&edit.prompt, &edit.original, &edit.tokens);
            self.splitter = Splitter::new(self.splitter.channel());
            (self.channel, self.name) = (Channel::Answer, None);
            spans = self.spans(&tokens[edit.read..], &[])?;
        }
        match &mut self.gap {
            None => self.turn(self.channel, &mut spans),
            Some(gap) => {
                let Filling { asked, recipe } = &gap.filling;
                let model = &self.served.model;
                let content = model.gap_content(&asked.gap, recipe, &gap.tokens)?;
                gap.is_closed = content.is_closed;
                gap.content = Some(content.tokens);
                // Tokens at its edges may hold parts of the texts around it: the content has its own.
                let vocab = self.served.model.vocab();
                let tokens = vocab.tokenize(&content.text, false, false)?.into_iter();
                let token = |id| {
                    Ok(AnswerToken {
                        id,
                        bytes: vocab.piece(id, self.marks)?,
                        score: None,
                    })
                };
                let tokens = tokens.map(token).collect::<Result<_>>()?;
                if !content.text.is_empty() {
                    spans.push(Span {
                        channel: Channel::Answer,
                        text: content.text,
                        tokens,
                    });
                }
            }
        }
        Ok(Canvas { spans })
    }

    /// Ends a run of text.
    fn turn(&mut self, channel: Channel, spans: &mut Vec<Span>) {
        let mut rest = self.name.take().unwrap_or_default();
        rest += &self.text.finish();
        if !rest.is_empty() {
            append(spans, self.channel, &rest, None);
        }
        self.channel = channel;
    }

    /// Removes the name of the channel from the beginning of a thought.
    fn without_name(&mut self, text: String) -> String {
        let Some(mut begun) = self
            .name
            .take()
            .filter(|_| self.channel == Channel::Thought)
        else {
            return text;
        };
        begun += &text;
        if let Some(thought) = begun.strip_prefix(CHANNEL_NAME) {
            return thought.to_owned();
        }
        if CHANNEL_NAME.starts_with(&begun) {
            self.name = Some(begun);
            return String::new();
        }
        begun
    }

    fn score(&self, score: &TokenScore) -> Result<Score> {
        let piece = |token| self.served.model.vocab().piece(token, true);
        let top = score
            .top
            .iter()
            .map(|&(token, logprob)| Ok((token, piece(token)?, logprob)));
        Ok(Score {
            logprob: score.logprob,
            top: top.collect::<Result<_>>()?,
        })
    }
}

impl EditReader {
    /// Takes the next tokens, and returns how many of them can be read.
    fn take(&mut self, tokens: &[Token], splitter: &Splitter) -> usize {
        self.tokens.extend_from_slice(tokens);
        if self.holds {
            return 0;
        }
        let mut ahead = splitter.clone();
        let mark = tokens
            .iter()
            .position(|token| ahead.push(*token) == Section::Mark);
        let count = mark.unwrap_or(tokens.len());
        self.holds = mark.is_some();
        self.read += count;
        count
    }
}

fn append(spans: &mut Vec<Span>, channel: Channel, text: &str, token: Option<AnswerToken>) {
    match spans.last_mut() {
        Some(last) if last.channel == channel => {
            last.text += text;
            last.tokens.extend(token);
        }
        _ => spans.push(Span {
            channel,
            text: text.to_owned(),
            tokens: token.into_iter().collect(),
        }),
    }
}

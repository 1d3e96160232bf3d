//! Plain decoding by the causal encoder, before the first canvas.

use std::ops::ControlFlow;
use std::time::Instant;

use super::parts::{From, append, renumbered};
use super::{Answer, Session};
use crate::diffusion::{
    CancelFlag, CounterNoise, DiffusionParams, Event, FinishReason, FinishedCanvas, Generation,
    Recipe as _, ScoredCanvas, Scorer, Timing, Token, TokenScore, most_likely,
};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// How many tokens of a prompt, its last ones, show whether the encoder's head is trained.
const CHECKED: usize = 32;

/// Whether a mean log-probability, in nats, of tokens from a vocabulary is that of a trained head: the
/// log-probability of chance is twice as low as the lowest that counts.
fn is_trained(mean_logprob: f64, vocab: usize) -> bool {
    mean_logprob > -(vocab as f64).ln() / 2.0
}

/// What the encoder wrote.
struct Ahead {
    tokens: Vec<Token>,
    /// Of each token, if they are asked for.
    scores: Vec<TokenScore>,
    /// Tokens of the prompt that were cached.
    reused: usize,
}

impl Session {
    /// Answers like [`generate`](Self::generate), but writes the first tokens, at most `count`, one by one:
    /// each is the most likely one by the causal encoder. Canvases follow, unless the answer has ended.
    /// The tokens are reported as a finished canvas without steps, and if canvases are scored, with the
    /// encoder's scores.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); `params` have a constraint or templates; the model is of a masked
    /// family; or its encoder is not trained to
    /// predict tokens: then it predicts the end of the prompt hardly better than chance.
    pub fn generate_after(
        &mut self,
        count: usize,
        prompt: &[Token],
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        params.validate_for(self.limits().vocab)?;
        if params.constraint.is_some() || !params.templates.is_empty() {
            let problem = "the encoder follows neither constraints nor templates: omit them";
            return Err(Error::parameter(Parameter::Ahead, problem));
        }
        let count = params.max_tokens.map_or(count, |max| count.min(max));
        if count == 0 {
            return self.generate(prompt, params, cancel, on_event);
        }
        let mut generation = Generation::empty();
        let top = params.scoring.map(|scoring| scoring.top);
        let Ahead {
            tokens: ahead,
            scores,
            reused,
        } = self.decode(prompt, count, top, cancel, &mut generation.timing)?;
        let end = self.end.clone();
        let ended = ahead.last().is_some_and(|token| end.is_end(*token));
        let answer = &ahead[..ahead.len() - usize::from(ended)];
        let canvas = FinishedCanvas {
            block: 0,
            steps: 0,
            converged: true,
            tokens: ahead.clone(),
            answer: answer.to_vec(),
            generated: ahead.len(),
            ended,
        };
        generation.tokens.extend(answer);
        let scored = Event::Scored(ScoredCanvas {
            block: 0,
            round: 0,
            tokens: &ahead,
            scores: &scores,
            doubted: &vec![false; ahead.len()],
        });
        let mut flow = match top {
            Some(_) => on_event(scored),
            None => ControlFlow::Continue(()),
        };
        if flow.is_continue() {
            flow = on_event(Event::CanvasDone(&canvas));
        }
        generation
            .scores
            .extend(scores.into_iter().take(answer.len()));
        generation.canvases.push(canvas);
        let is_full = params.max_tokens.is_some_and(|max| ahead.len() >= max);
        generation.finish = if ended {
            FinishReason::EndOfText
        } else if flow.is_break() || cancel.is_cancelled() {
            FinishReason::Cancelled
        } else if is_full {
            FinishReason::Length
        } else {
            let noise = CounterNoise::new(params.seed(), self.model().vocab_size())?;
            let params = DiffusionParams {
                max_tokens: params.max_tokens.map(|max| max - ahead.len()),
                ..params.clone()
            };
            let text = [prompt, &ahead].concat();
            let noise = From {
                noise: &noise,
                block: 1,
            };
            let on_event = &mut |event: Event<'_>| renumbered(event, 1, on_event);
            let rest = self.generate_with(&text, &params, &noise, cancel, on_event)?;
            let finish = rest.generation.finish;
            append(&mut generation, rest.generation, 1);
            finish
        };
        Ok(Answer { generation, reused })
    }

    /// Up to `count` tokens after a prompt, the last of which may end the answer. With `top`, each has a
    /// score that lists as many of the most likely tokens.
    fn decode(
        &mut self,
        prompt: &[Token],
        count: usize,
        top: Option<usize>,
        cancel: &CancelFlag,
        timing: &mut Timing,
    ) -> Result<Ahead> {
        let (context, canvas) = (self.limits().context, self.limits().canvas.unwrap_or(1));
        if prompt.len().saturating_add(count + canvas) > context {
            return Err(Error::ContextFull {
                prompt: prompt.len().saturating_add(count),
                canvas,
                context,
            });
        }
        let start = Instant::now();
        let (mut logits, reused) = self.encode_checked(prompt, Parameter::Ahead)?;
        timing.prefill = start.elapsed();
        let end = self.end.clone();
        let encoder = self.canvas_denoiser()?;
        let (mut tokens, mut scores) = (Vec::new(), Vec::new());
        while tokens.len() < count && !cancel.is_cancelled() {
            let Some(&token) = most_likely(&logits, 1).first() else {
                break;
            };
            tokens.push(token);
            scores.extend(top.map(|top| TokenScore {
                by: Scorer::Encoder,
                ..TokenScore::new(&logits, token, top)
            }));
            if end.is_end(token) {
                break;
            }
            if tokens.len() < count {
                logits = encoder.encode_with_logits(&[token])?;
            }
        }
        timing.commit = start.elapsed() - timing.prefill;
        Ok(Ahead {
            tokens,
            scores,
            reused,
        })
    }

    /// Encodes a prompt, and checks that the encoder is trained to predict tokens. Returns what it predicts after
    /// the prompt, as logits, and how many tokens of the prompt were cached.
    ///
    /// # Errors
    /// `parameter` cannot work: the prompt is too short, or the encoder predicts the end of it hardly better than
    /// chance.
    pub(super) fn encode_checked(
        &mut self,
        prompt: &[Token],
        parameter: Parameter,
    ) -> Result<(Vec<f32>, usize)> {
        let refuse = |problem: String| Err(Error::parameter(parameter, problem));
        if prompt.len() < 2 {
            return refuse("the prompt is too short to show whether the encoder is trained".into());
        }
        let (known, checked) = prompt.split_at(prompt.len().saturating_sub(CHECKED).max(1));
        let reused = self.usable_prefix(&known[..known.len() - 1]);
        self.keep(reused)?;
        let vocab = self.model().vocab_size();
        let encoder = self.canvas_denoiser()?;
        encoder.protect(prompt.len());
        let mut logits = encoder.encode_with_logits(&known[reused..])?;
        let mut total = 0.0;
        for token in checked {
            total += f64::from(TokenScore::new(&logits, *token, 0).logprob);
            logits = encoder.encode_with_logits(&[*token])?;
        }
        let mean = total / checked.len() as f64;
        match is_trained(mean, vocab) {
            true => Ok((logits, reused)),
            false => refuse(format!(
                "the model's encoder is not trained to predict tokens: to the prompt's last {} it gives a mean \
                 log-probability of {mean:.2}, and chance {:.2}",
                checked.len(),
                -(vocab as f64).ln(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_chance_is_the_limit() {
        // ln 1024 is 6.93.
        assert!(is_trained(-3.46, 1024));
        assert!(!is_trained(-3.47, 1024));
        assert!(!is_trained(f64::NAN, 1024));
        assert!(is_trained(0.0, 1024));
    }
}

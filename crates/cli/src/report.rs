//! The lines after an answer.

use std::fmt;
use std::time::Duration;

use llama_diffusion::chat::thinking::AnswerText;
use llama_diffusion::{Answer, FinishReason};

/// What an answer took. The first two lines are those of llama.cpp's tools, which count whole
/// canvases; the third counts the tokens that the user sees.
pub struct Report<'a> {
    pub answer: &'a Answer,
    /// Tokens of a canvas.
    pub canvas: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    pub seed: u64,
    /// The rule that decides which tokens a step keeps.
    pub sampler: &'static str,
    /// The limit that cuts the answer.
    pub limit: &'static str,
    /// The part of it that the user sees.
    pub text: &'a AnswerText,
    /// Whether the prompt was encoded once, and not in every step.
    pub caches: bool,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { generation, reused } = self.answer;
        let prefill = generation.timing.prefill;
        let (steps, blocks) = (generation.steps, generation.canvases.len());
        let total = prefill + generation.timing.denoise + generation.timing.commit;
        let per_step = match u32::try_from(steps) {
            Ok(steps @ 1..) => total / steps,
            _ => Duration::ZERO,
        };
        writeln!(
            f,
            "total time: {:.2}ms, time per step: {:.2}ms ({steps} steps over {blocks} blocks, \
             {})",
            millis(total),
            millis(per_step),
            self.sampler,
        )?;
        let canvas = self.canvas;
        let tokens: usize = generation.canvases.iter().map(|c| c.tokens.len()).sum();
        writeln!(
            f,
            "throughput: {:.1} tok/s ({tokens} tok in {:.2}ms), in-step parallel {:.0} tok/s \
             ({canvas}-tok canvas x {:.1} steps/block)",
            rate(tokens, total),
            millis(total),
            rate(canvas, per_step),
            steps as f64 / blocks.max(1) as f64,
        )?;
        let shown = generation.tokens.len();
        write!(
            f,
            "answer: {shown} tok ({}), {:.1} tok/s, {:.1} tok per forward; ",
            self.outcome(),
            rate(shown, total),
            generation.tokens_per_forward(),
        )?;
        match self.caches {
            true => {
                let (read, time) = (self.prompt - reused, millis(prefill));
                write!(f, "prefill: {read} tok in {time:.2}ms, {reused} reused")?;
            }
            false if generation.passes < steps => {
                let (prompt, passes) = (self.prompt, generation.passes);
                write!(f, "prompt: {prompt} tok, read in each of {passes} passes")?;
            }
            false => write!(f, "prompt: {} tok, read in every step", self.prompt)?,
        }
        write!(f, "; seed: {}", self.seed)
    }
}

impl Report<'_> {
    /// Why the answer ended, what is missing, and whether its canvases converged.
    fn outcome(&self) -> String {
        let generation = &self.answer.generation;
        let mut outcome = match generation.finish {
            FinishReason::EndOfText if generation.tokens.is_empty() => "ended at once by the model",
            FinishReason::EndOfText => "ended by the model",
            FinishReason::Length => self.limit,
            FinishReason::ContextFull => "the context is full: raise -c",
            FinishReason::Cancelled => "interrupted",
        }
        .to_owned();
        if self.text.thinking {
            outcome += " while thinking";
        }
        if self.text.text.is_empty() && generation.finish != FinishReason::Cancelled {
            outcome += match self.text.thoughts.is_empty() {
                true => ", empty",
                false => ", empty but for its thoughts",
            };
        }
        let canvases = generation.canvases.len();
        let spent = generation
            .canvases
            .iter()
            .filter(|canvas| !canvas.converged);
        match spent.count() {
            0 => outcome,
            spent => outcome + &format!("; {spent} of {canvases} canvases used all steps"),
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Per second; 0 if nothing was measured.
fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    tokens as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use llama_diffusion::Generation;
    use llama_diffusion::diffusion::{Corrections, FinishedCanvas, Timing};

    use super::*;

    fn answer(steps: u64, canvases: Vec<FinishedCanvas>, denoise: Duration) -> Answer {
        Answer {
            generation: Generation {
                tokens: vec![7; 20],
                canvases,
                scores: Vec::new(),
                steps,
                passes: steps,
                corrections: Corrections::default(),
                finish: FinishReason::EndOfText,
                timing: Timing {
                    prefill: Duration::from_micros(22_950),
                    denoise,
                    commit: Duration::ZERO,
                },
            },
            reused: 5,
        }
    }

    fn lines(answer: &Answer) -> String {
        report(answer, "text", false)
    }

    fn report(answer: &Answer, text: &str, thinking: bool) -> String {
        let report = Report {
            answer,
            canvas: 256,
            prompt: 12,
            seed: 9,
            sampler: "entropy-bound",
            limit: "cut",
            text: &AnswerText {
                text: text.into(),
                thoughts: if thinking { "hm".into() } else { String::new() },
                thinking,
            },
            caches: true,
        };
        report.to_string()
    }

    fn canvas(converged: bool) -> FinishedCanvas {
        FinishedCanvas {
            block: 0,
            steps: 4,
            converged,
            answer: vec![7; 20],
            generated: 21,
            ended: true,
            tokens: vec![7; 256],
        }
    }

    #[test]
    fn llama_cpp_s_lines_and_an_honest_one() {
        let answer = answer(4, vec![canvas(true)], Duration::from_millis(14_900));
        assert_eq!(
            lines(&answer),
            "total time: 14922.95ms, time per step: 3730.74ms (4 steps over 1 blocks, entropy-bound)\n\
             throughput: 17.2 tok/s (256 tok in 14922.95ms), in-step parallel 69 tok/s \
             (256-tok canvas x 4.0 steps/block)\n\
             answer: 20 tok (ended by the model), 1.3 tok/s, 5.2 tok per forward; \
             prefill: 7 tok in 22.95ms, 5 reused; seed: 9"
        );
    }

    #[test]
    fn the_reason_comes_first_also_where_there_is_no_text() {
        use FinishReason::{Cancelled, ContextFull, EndOfText, Length};
        for (tokens, finish, thinking, expected) in [
            (
                8,
                Length,
                true,
                "8 tok (cut while thinking, empty but for its thoughts), ",
            ),
            (8, Length, false, "8 tok (cut, empty), "),
            (8, EndOfText, false, "8 tok (ended by the model, empty), "),
            (
                0,
                EndOfText,
                false,
                "0 tok (ended at once by the model, empty), ",
            ),
            (
                8,
                ContextFull,
                false,
                "8 tok (the context is full: raise -c, empty), ",
            ),
            (8, Cancelled, true, "8 tok (interrupted while thinking), "),
            (0, Cancelled, false, "0 tok (interrupted), "),
        ] {
            let mut answer = answer(4, Vec::new(), Duration::ZERO);
            answer.generation.tokens = vec![7; tokens];
            answer.generation.finish = finish;
            let text = report(&answer, "", thinking);
            assert!(text.contains(&format!("answer: {expected}")), "{text}");
        }
        let answer = answer(4, Vec::new(), Duration::ZERO);
        let text = report(&answer, "text", true);
        assert!(
            text.contains("(ended by the model while thinking), "),
            "{text}"
        );
    }

    #[test]
    fn canvases_that_did_not_converge_are_counted() {
        let canvases = [true, false, false].map(canvas).to_vec();
        let text = lines(&answer(12, canvases, Duration::ZERO));
        let expected = "(ended by the model; 2 of 3 canvases used all steps), ";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn an_answer_that_was_interrupted_before_its_first_step_divides_by_nothing() {
        let answer = answer(0, Vec::new(), Duration::ZERO);
        let text = lines(&answer);
        assert!(
            text.contains("time per step: 0.00ms (0 steps over 0 blocks"),
            "{text}"
        );
        assert!(
            text.contains("in-step parallel 0 tok/s (256-tok canvas x 0.0 steps/block)"),
            "{text}"
        );
    }
}

//! `--infill-prefix`, `--infill-suffix`, `--infill-json`: gaps in texts.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use llama_diffusion::{
    CancelFlag, DiffusionParams, Error, Event, InfillAnswer, InfillRequest, InfillStop, Result,
    Session, TextModel,
};
use llama_diffusion_flags::input;
use llama_diffusion_flags::streams::{print, say, say_part};
use serde_json::{Value, json};

use crate::args::{InfillArgs, message};
use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::prompt::Setting;
use crate::run::{Run, canvas_model};

/// The gaps of a run.
pub struct Gaps {
    /// The flag that asks for them.
    flag: &'static str,
    source: Source,
}

/// Where the texts around gaps come from.
enum Source {
    /// One, whose texts are in files.
    One(Box<InfillRequest>),
    /// Those that the standard input asks for.
    Lines,
}

impl Gaps {
    /// Reads the files that the flags name, if they ask for gaps.
    ///
    /// # Errors
    /// A file cannot be read or is not UTF-8.
    pub fn read(args: &InfillArgs) -> Result<Option<Self>> {
        let Some(flag) = args.flag() else {
            return Ok(None);
        };
        if args.infill_json {
            let source = Source::Lines;
            return Ok(Some(Self { flag, source }));
        }
        let text = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(String::new()), input::file);
        let source = Source::One(Box::new(InfillRequest {
            input_prefix: text(&args.infill_prefix)?,
            input_suffix: text(&args.infill_suffix)?,
            infill_tokens: args.infill_tokens,
            ..InfillRequest::default()
        }));
        Ok(Some(Self { flag, source }))
    }

    /// Fills the gaps.
    ///
    /// # Errors
    /// The model is a masked one, a flag cannot work, or the only gap cannot be filled.
    pub fn run(
        self,
        run: &Run,
        model: &TextModel,
        setting: &Setting,
        interrupt: &Interrupt,
    ) -> Result<Ending> {
        let canvas_model = canvas_model(model, self.flag, "fill gaps")?;
        let engine = run.engine(model.model())?;
        let mut filler = Filler {
            model,
            setting,
            params: run.diffusion(canvas_model, run.seed)?,
            session: engine.session(model)?,
        };
        match self.source {
            Source::One(mut request) => {
                let limit = filler
                    .params
                    .max_tokens
                    .and_then(|max| i64::try_from(max).ok());
                request.n_predict = limit.unwrap_or(-1);
                let answers = filler.fill(&request, interrupt.flag())?;
                let mut stop = InfillStop::Complete;
                for answer in &answers {
                    print(&answer.content)?;
                    stop = answer.stop;
                    if run.output.shows_summary {
                        // On the line after the text, which rarely ends with its line.
                        if io::stdout().is_terminal() && !answer.content.ends_with('\n') {
                            say_part('\n');
                        }
                        say(Summary(answer));
                    }
                }
                Ok(match stop {
                    InfillStop::Cancelled => Ending::Interrupted,
                    InfillStop::Complete | InfillStop::Limit | InfillStop::Time => Ending::Done,
                })
            }
            Source::Lines => filler.answer_lines(interrupt),
        }
    }
}

struct Filler<'a> {
    model: &'a TextModel,
    setting: &'a Setting,
    params: DiffusionParams,
    session: Session,
}

impl Filler<'_> {
    fn fill(&mut self, request: &InfillRequest, cancel: &CancelFlag) -> Result<Vec<InfillAnswer>> {
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let prompt = self.setting.gap_prompt();
        let session = &mut self.session;
        self.model
            .infill(session, request, &prompt, &self.params, cancel, go_on)
    }

    /// Answers the lines of the standard input. A request that fails is answered by its error.
    fn answer_lines(&mut self, interrupt: &Interrupt) -> Result<Ending> {
        let mut ending = Ending::Done;
        loop {
            let mut line = Vec::new();
            let count = interrupt
                .while_waiting(|| io::stdin().lock().read_until(b'\n', &mut line))
                .map_err(|source| Error::Io {
                    path: PathBuf::from("standard input"),
                    source,
                })?;
            if count == 0 {
                return Ok(ending);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let answer = input::text(line, "request")
                .and_then(|line| InfillRequest::from_json(&line))
                .and_then(|request| {
                    let answers = self.fill(&request, interrupt.flag())?;
                    Ok(request.answer_json(&answers))
                });
            let answer = answer.unwrap_or_else(|error| {
                ending = Ending::Failed;
                failure(&error)
            });
            print(&format!("{answer}\n"))?;
            if interrupt.flag().is_cancelled() {
                return Ok(Ending::Interrupted);
            }
        }
    }
}

/// The answer to a request that failed.
fn failure(error: &Error) -> Value {
    json!({ "error": { "message": message(error) } })
}

/// What a gap took, in a line.
struct Summary<'a>(&'a InfillAnswer);

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (answer, timings) = (self.0, &self.0.timings);
        let end = match answer.stop {
            InfillStop::Complete => "",
            InfillStop::Limit => ", cut: the gap may be longer",
            InfillStop::Time => ", cut: the time was up",
            InfillStop::Cancelled => ", interrupted",
        };
        let plural = if answer.tokens_predicted == 1 {
            ""
        } else {
            "s"
        };
        write!(
            f,
            "gap of {} token{plural} in {} steps; prompt of {} tokens ({} cached) in {:.0} ms, steps in {:.0} ms; seed {}{end}",
            answer.tokens_predicted,
            timings.steps,
            timings.prompt_n + timings.cache_n,
            timings.cache_n,
            timings.prompt_ms,
            timings.predicted_ms,
            answer.seed
        )
    }
}

//! What a run does: answers a prompt or chats, edits a text, fills a form or gaps.

use std::io::{self, IsTerminal as _};

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{Result, TextModel};

use crate::answer::Answerer;
use crate::args::Args;
use crate::chat::{self, Lines};
use crate::constraint::Language;
use crate::edit::Edit;
use crate::ending::Ending;
use crate::form::{FilledIn, Known};
use crate::infill::Gaps;
use crate::interrupt::Interrupt;
use crate::prompt::{self, Setting};
use crate::prompt_cache::PromptCache;
use crate::run::Run;
use llama_diffusion_flags::streams::say;

/// What a run does, with the files that the flags name.
pub struct Job {
    setting: Setting,
    task: Task,
}

enum Task {
    Edit(Box<Edit>),
    Form(FilledIn),
    Gaps(Gaps),
    Answer(Box<Conversation>),
}

/// Answers to one message or to several.
struct Conversation {
    cache: Option<PromptCache>,
    language: Option<Language>,
    known: Option<Known>,
    /// Whether there are several messages.
    is_chat: bool,
    simple_io: bool,
    /// The first message.
    first: Option<String>,
}

impl Job {
    /// Reads what the flags name: what the user got wrong is reported before minutes of loading.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should.
    pub fn read(args: &Args, interrupt: &Interrupt) -> Result<Self> {
        let (prompt, thoughts) = (args.common.prompt(), args.chat.thoughts());
        let setting = || Setting::read(&args.chat, args.system());
        let language = || Language::read(&args.constraint, thoughts);
        if let Some(path) = &args.edit.edit {
            let edit = Edit::read(path, &args.edit, prompt)?;
            return Ok(Self {
                task: Task::Edit(Box::new(edit.in_language(language()?))),
                setting: setting()?,
            });
        }
        if let Some(path) = &args.form.form {
            let seed = args.common.seed();
            let read = || FilledIn::read(path, seed, prompt, thoughts);
            return Ok(Self {
                task: Task::Form(interrupt.while_waiting(read)?),
                setting: setting()?,
            });
        }
        if let Some(gaps) = Gaps::read(&args.infill)? {
            return Ok(Self {
                task: Task::Gaps(gaps),
                setting: setting()?,
            });
        }
        let is_chat = args.is_chat(io::stdin().is_terminal());
        let first = match prompt {
            None if is_chat => None, // each line is a message
            prompt => Some(interrupt.while_waiting(|| prompt::read(prompt))?),
        };
        let setting = setting()?;
        let cache = args.cache.prompt_cache.as_ref();
        let cache = cache.map(|path| PromptCache::read(path, args.cache.saves()));
        let cache = cache.transpose()?;
        let language = language()?;
        let known = args.form.template.as_ref();
        let known = known.map(|path| Known::read(path, thoughts)).transpose()?;
        let conversation = Conversation {
            cache,
            language,
            known,
            is_chat,
            simple_io: args.chat.simple_io,
            first,
        };
        Ok(Self {
            task: Task::Answer(Box::new(conversation)),
            setting,
        })
    }

    /// Does it.
    ///
    /// # Errors
    /// The model cannot do it, the device fails, or an output cannot be written.
    pub fn run(self, run: &Run, model: &TextModel, interrupt: &Interrupt) -> Result<Ending> {
        let mut setting = self.setting;
        let is_chat = matches!(&self.task, Task::Answer(conversation) if conversation.is_chat);
        setting.complete(model, is_chat)?;
        match self.task {
            Task::Edit(edit) => edit.run(run, model, &setting, interrupt.flag()),
            Task::Form(form) => form.run(run, model, &setting, interrupt.flag()),
            Task::Gaps(gaps) => gaps.run(run, model, &setting, interrupt),
            Task::Answer(conversation) => conversation.lead(run, model, setting, interrupt),
        }
    }
}

impl Conversation {
    fn lead(
        self,
        run: &Run,
        model: &TextModel,
        setting: Setting,
        interrupt: &Interrupt,
    ) -> Result<Ending> {
        let mut engine = run.engine(model.model())?;
        engine.language = self.language;
        engine.known = self.known;
        let mut answerer = Answerer::new(engine, &run.output, model, setting, self.cache)?;
        match self.first {
            Some(text) if !self.is_chat => {
                let mut messages = answerer.opening();
                messages.push(Message::new(Role::User, text));
                let reply = answerer.answer(&messages, run.seed, interrupt.flag())?;
                Ok(reply.finish.into())
            }
            first => {
                let lines = Lines::open(self.simple_io)?;
                if lines.is_terminal() && !run.output.show.quiet {
                    say("/help lists the commands");
                }
                chat::run(lines, &mut answerer, first, run.seed, interrupt)
            }
        }
    }
}

//! The files that a command line names, by what they are for.

use std::path::PathBuf;

use super::{Args, PromptSource, Subcommand};

/// A file, and its flag or its purpose.
pub type Named = (&'static str, PathBuf);

impl Args {
    /// The outputs, by their flags.
    pub fn written_files(&self) -> Vec<Named> {
        let output = &self.output;
        let flags = [
            ("--log-file", output.log.log_file.as_ref()),
            ("--record", output.record.as_ref()),
            ("--logprobs", self.scoring.logprobs.as_ref()),
            ("--prompt-cache", self.cache.written()),
        ];
        let mut files: Vec<Named> = flags
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.cloned()?)))
            .collect();
        match &self.command {
            Some(Subcommand::Quantize(options)) => files.push(("OUT", options.output.clone())),
            Some(Subcommand::Replay(options)) => {
                files.extend(options.svg.clone().map(|path| ("--svg", path)));
            }
            _ => {}
        }
        files
    }

    /// The models. Errors of a name are reported when its model is loaded.
    pub fn model_files(&self) -> Vec<PathBuf> {
        match &self.command {
            None => self.placement.model().ok().flatten().into_iter().collect(),
            Some(Subcommand::CrossEntropy(options)) => options.models.clone(),
            Some(Subcommand::Quantize(options)) => vec![options.input.clone()],
            Some(Subcommand::Replay(_) | Subcommand::RpcServer(_)) => Vec::new(),
        }
    }

    /// The other inputs, by their purposes.
    pub fn read_files(&self) -> Vec<Named> {
        let prompt = match self.common.prompt() {
            Some(PromptSource::File(path)) => Some(path),
            Some(PromptSource::Text(_)) | None => None,
        };
        let (chat, infill, form) = (&self.chat, &self.infill, &self.form);
        let files = match &self.command {
            None => vec![
                ("the prompt", prompt.as_ref()),
                ("the text to edit", self.edit.edit.as_ref()),
                ("the form", form.form.as_ref()),
                ("the template", form.template.as_ref()),
                ("the system prompt", chat.system_prompt_file.as_ref()),
                (
                    "the chat template",
                    chat.template.chat_template_file.as_ref(),
                ),
                ("the prompt cache", self.cache.only_read()),
                ("the text before the gap", infill.infill_prefix.as_ref()),
                ("the text after the gap", infill.infill_suffix.as_ref()),
            ],
            Some(Subcommand::CrossEntropy(options)) => {
                vec![("the file of answers", Some(&options.answers))]
            }
            Some(Subcommand::Quantize(options)) => {
                vec![("the importance matrix", options.imatrix.as_ref())]
            }
            Some(Subcommand::Replay(options)) => vec![("the recording", Some(&options.file))],
            Some(Subcommand::RpcServer(_)) => Vec::new(),
        };
        let named = files.into_iter();
        named
            .filter_map(|(what, path)| Some((what, path?.clone())))
            .collect()
    }
}

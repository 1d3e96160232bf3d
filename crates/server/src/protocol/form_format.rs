//! Filled forms, whole and as a stream.

use serde_json::{Value, json};

use super::assemble::Delta;
use super::chat_format::prompt_progress;
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, TotalUsage, statistics, timings,
};
use super::reply::Options;

/// Writes a stream: the progress of the prompt, and the form.
pub struct FormStream {
    meta: Meta,
    options: Options,
}

impl FormStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options) -> Self {
        Self { meta, options }
    }
}

impl Stream for FormStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn progress(&mut self, _: usize, progress: &Progress) -> Vec<StreamEvent> {
        let progress = prompt_progress(progress);
        let event = json!({"stop": false, "prompt_progress": progress});
        vec![StreamEvent::unnamed(event)]
    }

    fn draft(&mut self, _: usize, payload: &Value) -> Vec<StreamEvent> {
        let event = json!({"stop": false, "diffusion": payload});
        vec![StreamEvent::unnamed(event)]
    }

    fn deltas(&mut self, _: usize, _: Vec<Delta>) -> Vec<StreamEvent> {
        Vec::new() // a form is filled as a whole
    }

    fn finish(&mut self, _: usize, finished: &Finished) -> Vec<StreamEvent> {
        vec![StreamEvent::unnamed(whole(
            &self.meta,
            &self.options,
            finished,
        ))]
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }
}

/// Writes the whole answer.
pub fn answer(meta: &Meta, options: &Options, answers: &[Choice]) -> Value {
    let forms = answers.iter();
    let mut forms = forms.map(|answer| whole(meta, options, &answer.finished));
    forms.next().unwrap_or_default()
}

fn whole(meta: &Meta, options: &Options, finished: &Finished) -> Value {
    let mut usage = TotalUsage::default();
    usage.add(0, 1, &finished.end);
    let mut body = match &finished.form {
        Some(form) => json!(form),
        None => json!({}),
    };
    // What was cached is in the usage, as for every endpoint.
    if let Value::Object(body) = &mut body {
        body.shift_remove("cached_tokens");
    }
    body["stop"] = true.into();
    body["id_slot"] = finished.end.slot.into();
    body["model"] = meta.model.as_str().into();
    body["usage"] = usage.openai();
    body["timings"] = timings(&finished.end);
    body["diffusion"] = statistics(&finished.end, &options.ignored);
    body
}

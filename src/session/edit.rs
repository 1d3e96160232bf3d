//! Edits of a text.

use std::ops::ControlFlow;

use super::{Answer, Session};
use crate::diffusion::edit::{Edit, Original};
use crate::diffusion::{CancelFlag, DiffusionParams, Event, Token};
use crate::error::Result;

impl Session {
    /// Edits a text as `prompt` asks for, which contains the instruction and the text: see [`Edit`], which
    /// does the same in a [`SessionBatch`](super::SessionBatch).
    ///
    /// # Errors
    /// As [`generate`](Self::generate); the model is of a masked family.
    pub fn edit(
        &mut self,
        prompt: &[Token],
        original: &Original,
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let edit = Edit::new(params.clone(), original.clone());
        self.generate(prompt, &edit, cancel, on_event)
    }
}

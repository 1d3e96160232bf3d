//! Several sequences of one model, denoised together: one pass reads the weights once for all of
//! them.

use std::sync::Arc;

use super::Model;
use super::counters::Counters;
use super::decoder::{Decoder, Share};
use super::denoiser::SequenceDenoiser;
use crate::diffusion::{Draws, StepInput};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// One sequence's share of a [batched step](CanvasBatch::step).
pub struct BatchMember<'a, 'io> {
    /// The sequence; its canvas has begun.
    pub denoiser: &'a mut SequenceDenoiser,
    /// As in [`Denoiser::step`](crate::diffusion::Denoiser::step).
    pub input: StepInput<'io>,
    /// As in [`Denoiser::step`](crate::diffusion::Denoiser::step).
    pub draws: &'a mut Draws,
}

/// ggml reserves memory for graphs of the capacity, and aborts if there is none. No device benefits
/// from this many canvases of 256 tokens.
const MAX_CAPACITY: usize = 256;

/// Denoises the canvases of several sequences in one forward pass. Prefixes, lengths, steps and
/// temperatures may differ; each sequence draws what it would draw alone.
///
/// The graph is kept while the same sequences come in the same order and it has the keys that their
/// prefixes need.
pub struct CanvasBatch {
    model: Arc<Model>,
    capacity: usize,
    decoder: Decoder,
}

impl CanvasBatch {
    /// For at most `capacity` sequences of the model of `like`, which run with its settings
    /// (threads, flash attention).
    ///
    /// # Errors
    /// The capacity is 0 or above 256, or there is not enough memory.
    pub fn new(like: &SequenceDenoiser, capacity: usize) -> Result<Self> {
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            let problem = format!("{capacity} sequences: use 1 to {MAX_CAPACITY}");
            return Err(Error::parameter(Parameter::Session, problem));
        }
        let model = Arc::clone(like.model());
        let (backends, choice) = (like.new_backends()?, like.node_choice());
        let decoder = Decoder::new(&model, &backends, choice, like.threads(), capacity)?;
        Ok(Self {
            model,
            capacity,
            decoder,
        })
    }

    /// Sequences that fit a step.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What the batch has done so far; its sequences count their own encoding and mixing. A graph
    /// is built for each new combination of sequences and key counts.
    pub fn counters(&self) -> Counters {
        self.decoder.counters()
    }

    /// Releases the graph. It holds the caches of the latest step's sequences, dropped or not,
    /// until a step of other sequences builds another one.
    pub fn unload(&mut self) {
        self.decoder.unload();
    }

    /// Bytes of intermediate results and of inputs.
    pub fn memory(&self) -> usize {
        self.decoder.usage().of_sequences().1
    }

    /// One denoising step of every member; see
    /// [`Denoiser::step`](crate::diffusion::Denoiser::step). If the forward pass fails, no member
    /// has a canvas any more; a rejected step changes nothing.
    ///
    /// # Errors
    /// There are no members or too many, they belong to another model or have other settings than
    /// the batch, an input does not fit its canvas, or the device fails.
    pub fn step(&mut self, members: &mut [BatchMember<'_, '_>]) -> Result<()> {
        if members.is_empty() || members.len() > self.capacity {
            return Err(Error::parameter(
                Parameter::Session,
                format!("{} sequences: use 1 to {}", members.len(), self.capacity),
            ));
        }
        for member in &*members {
            self.check(member.denoiser)?;
        }
        let mut members: Vec<Share<'_, '_>> = members
            .iter_mut()
            .map(|m| Share {
                sequence: m.denoiser.sequence(),
                input: m.input,
                draws: m.draws,
            })
            .collect();
        self.decoder.step(&mut members)
    }

    /// Rejects a sequence that cannot take part.
    pub(crate) fn check(&self, denoiser: &SequenceDenoiser) -> Result<()> {
        if Arc::ptr_eq(denoiser.model(), &self.model)
            && denoiser.node_choice() == self.decoder.choice()
        {
            return Ok(());
        }
        Err(Error::parameter(
            Parameter::Session,
            "a sequence is of another model, or its flash attention is set otherwise",
        ))
    }
}

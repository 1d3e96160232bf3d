//! Counters of the work done so far, for tests and benchmarks.

/// What a [`SequenceDenoiser`](super::SequenceDenoiser) or a [`CanvasBatch`](super::CanvasBatch)
/// has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Graphs built and allocated.
    pub graphs_built: usize,
    /// Denoising steps computed.
    pub steps: usize,
    /// How often a backend captured the graph of a step to replay it as a whole, and how often it
    /// dropped a capture because the graph had changed. CUDA only; 0 elsewhere.
    pub graphs_captured: usize,
    /// See [`graphs_captured`](Self::graphs_captured).
    pub captures_dropped: usize,
    /// Tokens encoded, prompt and canvases.
    pub tokens_encoded: usize,
    /// Bytes copied between host and device during denoising steps, without those copied once per
    /// canvas.
    pub step_bytes: usize,
    /// Steps whose self-conditioning left out tokens of negligible probability.
    pub sparse_mixtures: usize,
    /// The maximum probability that was left out at any position.
    pub dropped_mass: f32,
}

//! What was done so far: for tests, benchmarks and the curious.

/// What a [`SequenceDenoiser`](super::SequenceDenoiser) or a [`CanvasBatch`](super::CanvasBatch) did so
/// far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Graphs built and allocated.
    pub graphs_built: usize,
    /// Denoising steps computed.
    pub steps: usize,
    /// How often a backend captured the graph of a step, to replay it as a whole from then on, and
    /// how often it gave a capture up because the graph had changed. CUDA only; 0 elsewhere.
    pub graphs_captured: usize,
    /// See [`graphs_captured`](Self::graphs_captured).
    pub captures_dropped: usize,
    /// Tokens encoded, prompt and canvases.
    pub tokens_encoded: usize,
    /// Bytes that went between host and device during denoising steps, without what a canvas costs
    /// once.
    pub step_bytes: usize,
    /// Steps whose self-conditioning left out tokens of next to no probability.
    pub sparse_mixtures: usize,
    /// The most probability that was left out at any position.
    pub dropped_mass: f32,
}

//! The metadata keys of diffusion models, and the names of DiffusionGemma's tensors.

use crate::gguf::keys::DIFFUSION_GEMMA;

/// The architectures of masked diffusion, whose forward pass is in libllama.
pub(crate) const MASKED_ARCHITECTURES: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];

/// Positions of a canvas.
pub(crate) const CANVAS_LENGTH: &str = "diffusion.canvas_length";
/// Whether the logits of a position are those of the row before it.
pub(crate) const SHIFT_LOGITS: &str = "diffusion.shift_logits";
/// Every token that ends an answer, where a file lists them.
pub(crate) const EOS_TOKEN_IDS: &str = "diffusion.eos_token_ids";

/// A setting of the entropy-bound sampler that the file recommends.
pub(crate) fn entropy_bound(name: &str) -> String {
    format!("diffusion.eb_{name}")
}

/// The key of DiffusionGemma with one of the suffixes below.
pub(crate) fn of_model(suffix: &str) -> String {
    format!("{DIFFUSION_GEMMA}.{suffix}")
}

// Suffixes of keys that begin with the architecture.
pub(crate) const ATTENTION_CAUSAL: &str = "attention.causal";
pub(crate) const BLOCK_COUNT: &str = "block_count";
pub(crate) const CONTEXT_LENGTH: &str = "context_length";
pub(crate) const EMBEDDING_LENGTH: &str = "embedding_length";
pub(crate) const EMBEDDING_LENGTH_PER_LAYER: &str = "embedding_length_per_layer_input";
pub(crate) const EMBEDDING_SCALE: &str = "embedding_scale";
pub(crate) const FEED_FORWARD_LENGTH: &str = "feed_forward_length";
pub(crate) const EXPERT_COUNT: &str = "expert_count";
pub(crate) const EXPERT_USED_COUNT: &str = "expert_used_count";
pub(crate) const EXPERT_FEED_FORWARD_LENGTH: &str = "expert_feed_forward_length";
pub(crate) const HEAD_COUNT: &str = "attention.head_count";
pub(crate) const HEAD_COUNT_KV: &str = "attention.head_count_kv";
pub(crate) const KEY_LENGTH: &str = "attention.key_length";
pub(crate) const VALUE_LENGTH: &str = "attention.value_length";
pub(crate) const LAYER_NORM_RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
pub(crate) const SHARED_KV_LAYERS: &str = "attention.shared_kv_layers";
pub(crate) const SLIDING_WINDOW: &str = "attention.sliding_window";
pub(crate) const SLIDING_WINDOW_PATTERN: &str = "attention.sliding_window_pattern";
pub(crate) const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
pub(crate) const ROPE_FREQ_BASE: &str = "rope.freq_base";
pub(crate) const FINAL_LOGIT_SOFTCAPPING: &str = "final_logit_softcapping";
pub(crate) const VOCAB_SIZE: &str = "vocab_size";
/// What follows a suffix if the value is for sliding layers.
pub(crate) const OF_SLIDING_LAYERS: &str = "_swa";

/// The embedding matrix.
pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";

/// The prefix of a layer's tensors.
pub(crate) fn of_layer(index: usize) -> String {
    format!("blk.{index}.")
}

/// The weights of one of the stems below.
pub(crate) fn weight(stem: &str) -> String {
    format!("{stem}.weight")
}

/// The scale of a stem.
pub(crate) fn scale(stem: &str) -> String {
    format!("{stem}.scale")
}

/// The stem of a tensor's name, without its layer and its last part: `attn_v` for
/// `blk.3.attn_v.weight`.
pub(crate) fn stem(name: &str) -> &str {
    name.rsplit('.').nth(1).unwrap_or(name)
}

// Stems of tensor names.
pub(crate) const OUTPUT: &str = "output";
pub(crate) const OUTPUT_NORM: &str = "output_norm";
pub(crate) const ROPE_FREQS: &str = "rope_freqs";
pub(crate) const SELF_COND: &str = "self_cond";
pub(crate) const SELF_COND_PRE_NORM: &str = "self_cond_pre_norm";
pub(crate) const SELF_COND_GATE: &str = "self_cond_gate";
pub(crate) const SELF_COND_UP: &str = "self_cond_up";
pub(crate) const SELF_COND_DOWN: &str = "self_cond_down";
pub(crate) const ATTN_NORM: &str = "attn_norm";
pub(crate) const ATTN_Q: &str = "attn_q";
pub(crate) const ATTN_K: &str = "attn_k";
pub(crate) const ATTN_V: &str = "attn_v";
pub(crate) const ATTN_OUTPUT: &str = "attn_output";
pub(crate) const ATTN_Q_NORM: &str = "attn_q_norm";
pub(crate) const ATTN_K_NORM: &str = "attn_k_norm";
pub(crate) const POST_ATTENTION_NORM: &str = "post_attention_norm";
pub(crate) const FFN_NORM: &str = "ffn_norm";
pub(crate) const FFN_GATE: &str = "ffn_gate";
pub(crate) const FFN_UP: &str = "ffn_up";
pub(crate) const FFN_DOWN: &str = "ffn_down";
pub(crate) const POST_FFW_NORM_1: &str = "post_ffw_norm_1";
pub(crate) const PRE_FFW_NORM_2: &str = "pre_ffw_norm_2";
pub(crate) const POST_FFW_NORM_2: &str = "post_ffw_norm_2";
pub(crate) const POST_FFW_NORM: &str = "post_ffw_norm";
pub(crate) const ROUTER: &str = "ffn_gate_inp";
pub(crate) const EXPERTS_GATE_UP: &str = "ffn_gate_up_exps";
pub(crate) const EXPERTS_GATE: &str = "ffn_gate_exps";
pub(crate) const EXPERTS_UP: &str = "ffn_up_exps";
pub(crate) const EXPERTS_DOWN: &str = "ffn_down_exps";
pub(crate) const DECODER_SCALE: &str = "layer_output_scale";
pub(crate) const ENCODER_SCALE: &str = "enc_layer_output_scale";
/// Common to the names of all expert matrices, in the masked families too.
pub(crate) const EXPERTS: &str = "_exps";

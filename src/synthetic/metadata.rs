//! The hyperparameters of a generated model, as stored in its file.

use crate::gguf::keys::{DIFFUSION_GEMMA, GENERAL_ARCHITECTURE, NAME};
use crate::gguf::writer::{Encoded, GgufWriter};
use crate::model::hparams::{Hparams, LayerHparams, LayerKind};
use crate::model::keys;

pub(super) fn set_hparams(writer: &mut GgufWriter, hparams: &Hparams) {
    let number = |n: usize| Encoded::from(n as u32);
    writer
        .set(GENERAL_ARCHITECTURE, DIFFUSION_GEMMA)
        .set(NAME, "synthetic")
        .set(keys::CANVAS_LENGTH, number(hparams.canvas_length));
    let sliding = |layer: &LayerHparams| layer.kind == LayerKind::Sliding;
    let mut set = |suffix: &str, value: Encoded| {
        writer.set(keys::of_model(suffix), value);
    };
    set(keys::BLOCK_COUNT, number(hparams.layers.len()));
    set(keys::CONTEXT_LENGTH, number(hparams.context_length));
    set(keys::EMBEDDING_LENGTH, number(hparams.d));
    set(keys::FEED_FORWARD_LENGTH, number(hparams.d_ff));
    set(keys::HEAD_COUNT, number(hparams.n_heads));
    set(
        keys::HEAD_COUNT_KV,
        hparams
            .layers
            .iter()
            .map(|layer| layer.n_kv_heads as i32)
            .collect(),
    );
    set(keys::SLIDING_WINDOW, number(hparams.sliding_window));
    set(
        keys::SLIDING_WINDOW_PATTERN,
        hparams.layers.iter().map(sliding).collect(),
    );
    set(keys::SHARED_KV_LAYERS, number(0));
    set(keys::EMBEDDING_LENGTH_PER_LAYER, number(0));
    set(keys::LAYER_NORM_RMS_EPSILON, hparams.rms_eps.into());
    for layer in &hparams.layers {
        let suffix = if sliding(layer) {
            keys::OF_SLIDING_LAYERS
        } else {
            ""
        };
        set(
            &format!("{}{suffix}", keys::KEY_LENGTH),
            number(layer.head_dim),
        );
        set(
            &format!("{}{suffix}", keys::VALUE_LENGTH),
            number(layer.head_dim),
        );
        set(
            &format!("{}{suffix}", keys::ROPE_FREQ_BASE),
            layer.rope_base.into(),
        );
        set(
            &format!("{}{suffix}", keys::ROPE_DIMENSION_COUNT),
            number(layer.rope_dims),
        );
    }
    set(keys::EXPERT_COUNT, number(hparams.n_experts));
    set(keys::EXPERT_USED_COUNT, number(hparams.n_experts_used));
    set(keys::EXPERT_FEED_FORWARD_LENGTH, number(hparams.d_expert));
    set(keys::FINAL_LOGIT_SOFTCAPPING, hparams.logit_softcap.into());
}

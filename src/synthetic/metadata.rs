//! The hyperparameters of a generated model, as its file has them.

use crate::gguf::writer::{Encoded, GgufWriter};
use crate::model::hparams::{ARCHITECTURE, Hparams, LayerHparams, LayerKind};

pub(super) fn set_hparams(writer: &mut GgufWriter, hparams: &Hparams) {
    let number = |n: usize| Encoded::from(n as u32);
    writer
        .set("general.architecture", ARCHITECTURE)
        .set("general.name", "synthetic")
        .set("diffusion.canvas_length", number(hparams.canvas_length));
    let sliding = |layer: &LayerHparams| layer.kind == LayerKind::Sliding;
    let mut set = |suffix: &str, value: Encoded| {
        writer.set(format!("{ARCHITECTURE}.{suffix}"), value);
    };
    set("block_count", number(hparams.layers.len()));
    set("context_length", number(hparams.context_length));
    set("embedding_length", number(hparams.d));
    set("feed_forward_length", number(hparams.d_ff));
    set("attention.head_count", number(hparams.n_heads));
    set(
        "attention.head_count_kv",
        hparams
            .layers
            .iter()
            .map(|layer| layer.n_kv_heads as i32)
            .collect(),
    );
    set("attention.sliding_window", number(hparams.sliding_window));
    set(
        "attention.sliding_window_pattern",
        hparams.layers.iter().map(sliding).collect(),
    );
    set("attention.shared_kv_layers", number(0));
    set("embedding_length_per_layer_input", number(0));
    set("attention.layer_norm_rms_epsilon", hparams.rms_eps.into());
    for layer in &hparams.layers {
        let suffix = if sliding(layer) { "_swa" } else { "" };
        set(
            &format!("attention.key_length{suffix}"),
            number(layer.head_dim),
        );
        set(
            &format!("attention.value_length{suffix}"),
            number(layer.head_dim),
        );
        set(&format!("rope.freq_base{suffix}"), layer.rope_base.into());
        set(
            &format!("rope.dimension_count{suffix}"),
            number(layer.rope_dims),
        );
    }
    set("expert_count", number(hparams.n_experts));
    set("expert_used_count", number(hparams.n_experts_used));
    set("expert_feed_forward_length", number(hparams.d_expert));
    set("final_logit_softcapping", hparams.logit_softcap.into());
}

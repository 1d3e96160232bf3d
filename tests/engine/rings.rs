//! The rings of sliding layers at their limits: a ring holds exactly what a slot for every position
//! would, whatever the passes, and reports which positions it lost.

use std::ops::ControlFlow;
use std::sync::Arc;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::{EndTokens, KvType, Model, ModelParams, Session, SessionParams, Token};
use llama_diffusion_testing::replay::relative_error;
use llama_diffusion_testing::steps::{first_logits, prompt};

/// The order of the keys in a ring differs, and F32 sums depend on it: 1.4e-6 was measured.
const ROUNDING: f64 = 3e-5;

fn model(sliding_window: usize, canvas_length: usize) -> Arc<Model> {
    let geometry = Geometry {
        sliding_window,
        canvas_length,
        ..Geometry::tiny()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_synthetic(&path, &geometry, WeightTypes::Uniform(TensorType::F32), 7).unwrap();
    let load = Model::load(&path, &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    });
    Arc::new(load.unwrap())
}

fn session(model: &Arc<Model>, batch: usize, swa_full: bool) -> Session {
    let params = SessionParams {
        context: Some(1024),
        batch: Some(batch),
        threads: Some(1),
        kv_type: KvType::F32,
        swa_full,
        ..SessionParams::default()
    };
    Session::new(model, EndTokens::default(), &params).unwrap()
}

/// Compares the first step after a prompt, and the keys and values of the last layer, which is full
/// and depends on the sliding layers below it at every position.
fn assert_alike(ours: &mut Session, other: &mut Session, tokens: &[Token], what: &str) {
    let logits = [&mut *ours, &mut *other].map(|session| first_logits(session, tokens).0);
    let [(k, v), (other_k, other_v)] = [ours, other].map(|session| {
        session
            .canvas_denoiser()
            .unwrap()
            .keys_values(2, 0)
            .unwrap()
    });
    for (part, ours, other) in [
        ("logits", &logits[0], &logits[1]),
        ("K", &k, &other_k),
        ("V", &v, &other_v),
    ] {
        let error = relative_error(ours, other);
        println!("{what}: {part} within {error:.1e}");
        assert!(error < ROUNDING, "{what}: {part} differ by {error:.1e}");
    }
}

#[test]
fn a_ring_is_as_good_as_a_slot_for_every_position() {
    // Rings have 256 slots, or 512. A pass or a canvas of 256 - (window - 1) tokens fills 256 slots
    // to the last one; one token more needs 512.
    for (window, canvas, batches) in [
        (8, 16, &[1, 7, 249, 250, 256][..]),
        (225, 32, &[7]),
        (225, 33, &[7]),
        (8, 249, &[7]),
        (8, 250, &[7]),
    ] {
        let model = model(window, canvas);
        for &batch in batches {
            let (mut ring, mut full) =
                (session(&model, batch, false), session(&model, batch, true));
            let bytes = |session: &mut Session| session.canvas_denoiser().unwrap().memory().0;
            assert!(bytes(&mut ring) < bytes(&mut full));
            // Each continues the previous one: at the wraps, and in between.
            for length in [230, 256, 257, 400, 512, 530, 600] {
                let what =
                    format!("window {window}, canvas {canvas}, batch {batch}, {length} tokens");
                assert_alike(&mut ring, &mut full, &prompt(length), &what);
            }
        }
    }
}

/// A prompt that differs from [`prompt`] after this number of tokens.
fn branch(at: usize) -> Vec<Token> {
    [prompt(at), vec![1, 2, 3, 4]].concat()
}

#[test]
fn a_ring_goes_back_as_far_as_it_holds_what_the_window_needs() {
    // 256 slots. A canvas after 600 tokens overwrites what is before position 600 + 16 - 256; the
    // first token after `n` kept ones sees the 7 before it.
    const LEAST_KEPT: usize = 600 + 16 - 256 + 7;
    let model = model(8, 16);
    let after_a_canvas = || {
        let mut session = session(&model, 249, false);
        first_logits(&mut session, &prompt(600));
        session
    };
    for (at, kept) in [
        (LEAST_KEPT + 1, LEAST_KEPT + 1),
        (LEAST_KEPT, LEAST_KEPT),
        (LEAST_KEPT - 1, 0),
        (LEAST_KEPT - 16, 0), // what only the canvas overwrote
    ] {
        let mut warm = after_a_canvas();
        let (logits, reused) = first_logits(&mut warm, &branch(at));
        assert_eq!(reused, kept, "branch at {at}");
        let fresh = first_logits(&mut session(&model, 249, false), &branch(at)).0;
        let error = relative_error(&logits, &fresh);
        assert!(error < ROUNDING, "branch at {at}: {error:.1e}");
    }
    // A shorter text does not restore what a longer one overwrote.
    for (at, kept) in [(LEAST_KEPT, LEAST_KEPT), (LEAST_KEPT - 1, 0)] {
        let mut warm = after_a_canvas();
        first_logits(&mut warm, &branch(500));
        let (logits, reused) = first_logits(&mut warm, &branch(at));
        assert_eq!(reused, kept, "second branch at {at}");
        let fresh = first_logits(&mut session(&model, 249, false), &branch(at)).0;
        let error = relative_error(&logits, &fresh);
        assert!(error < ROUNDING, "second branch at {at}: {error:.1e}");
    }
    // A text that is encoded again from its start is held completely.
    let mut warm = after_a_canvas();
    assert_eq!(first_logits(&mut warm, &branch(100)).1, 0);
    assert_eq!(first_logits(&mut warm, &branch(50)).1, 50);
}

#[test]
fn only_positions_that_a_ring_still_holds_are_read() {
    let model = model(8, 16);
    let (mut ring, mut full) = (session(&model, 249, false), session(&model, 249, true));
    for session in [&mut ring, &mut full] {
        first_logits(session, &prompt(600));
    }
    let first = 600 + 16 - 256;
    let held = ring
        .canvas_denoiser()
        .unwrap()
        .keys_values(0, first)
        .unwrap();
    assert_eq!(
        held,
        full.canvas_denoiser()
            .unwrap()
            .keys_values(0, first)
            .unwrap()
    );
    let error = ring
        .canvas_denoiser()
        .unwrap()
        .keys_values(0, first - 1)
        .unwrap_err();
    assert!(
        error.to_string().contains("359 is no longer cached"),
        "{error}"
    );
}

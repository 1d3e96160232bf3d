//! Canvases shorter than those of the training.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use llama_diffusion::diffusion::{AcceptanceRule, Denoiser, OwnedDraft, Template};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Event, KvType, MetadataOverride, MetadataValue, Model,
    ModelParams, Session, SessionBatch, SessionParams, Token,
};
use llama_diffusion_testing::placements::on_cpu;
use llama_diffusion_testing::steps::prompt;

const TRAINED: usize = 64;

/// Writes a model that was trained with canvases of this length.
fn write(path: &Path, trained: usize) {
    let geometry = Geometry {
        canvas_length: trained,
        ..Geometry::tiny()
    };
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(path, &geometry, types, 7).unwrap();
}

/// Loads it as if it had been trained with another length.
fn load(path: &Path, trained: Option<usize>, own_kernels: bool) -> Arc<Model> {
    let metadata = trained.map(|len| MetadataOverride {
        key: "diffusion.canvas_length".into(),
        value: MetadataValue::Integer(len as i64),
    });
    let params = ModelParams {
        metadata: metadata.into_iter().collect(),
        ..on_cpu()
    };
    let model = Model::load(path, &params, &mut |_| ControlFlow::Continue(())).unwrap();
    Arc::new(match own_kernels {
        true => model,
        false => model.without_own_kernels(),
    })
}

fn session(model: &Arc<Model>) -> Session {
    let params = SessionParams {
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    Session::new(model, EndTokens::default(), &params).unwrap()
}

/// Three canvases of three steps, with fixed positions in the second.
fn params(canvas: Option<usize>) -> DiffusionParams {
    let mut template = Template::new();
    template.free().fixed(&[5, 6, 7]).free();
    DiffusionParams {
        max_steps: 3,
        max_tokens: None,
        max_canvases: Some(3),
        canvas,
        seed: 11,
        confidence_threshold: 0.0,
        templates: vec![Template::new(), template],
        acceptance: AcceptanceRule::Auto,
        ..DiffusionParams::default()
    }
}

type Trace = (Vec<Token>, Vec<OwnedDraft>);

/// The answer to a prompt, and its drafts.
fn answer(session: &mut Session, params: &DiffusionParams) -> Trace {
    let mut drafts = Vec::new();
    let answer = session.generate(&prompt(9), params, &CancelFlag::default(), &mut |event| {
        if let Event::Draft(draft) = event {
            drafts.push(draft.into());
        }
        ControlFlow::Continue(())
    });
    (answer.unwrap().generation.tokens, drafts)
}

#[test]
fn a_shorter_canvas_is_that_of_a_model_with_this_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, TRAINED);
    for own_kernels in [true, false] {
        let model = load(&path, None, own_kernels);
        // One session for all lengths, in an order in which each follows a longer and a shorter one.
        let mut mixed = session(&model);
        for len in [16, 48, 32, TRAINED, 16, TRAINED, 48] {
            let of_this_length = load(&path, Some(len), own_kernels);
            let expected = answer(&mut session(&of_this_length), &params(None));
            assert_eq!(expected.0.len(), 3 * len);
            let found = answer(&mut mixed, &params(Some(len)));
            assert!(found == expected, "{len} tokens, {own_kernels}");
            mixed.reset().unwrap();
        }
        let trained = answer(&mut session(&model), &params(Some(TRAINED)));
        assert!(trained == answer(&mut mixed, &params(None)));
    }
}

#[test]
fn mates_of_other_lengths_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, TRAINED);
    for own_kernels in [true, false] {
        let model = load(&path, None, own_kernels);
        let lengths = [Some(16), None, Some(48), Some(16)];
        let alone = lengths.map(|len| answer(&mut session(&model), &params(len)).0);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let sessions = (0..lengths.len()).map(|_| session(&model)).collect();
            let mut batch = SessionBatch::new(sessions).unwrap();
            let ids = order.map(|index| {
                let params = params(lengths[index]);
                let id = batch.join(&prompt(9), &params, &CancelFlag::default());
                (id.unwrap(), index)
            });
            let mut done = 0;
            while !batch.is_empty() {
                for member in batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {
                    let (_, index) = ids.iter().find(|(id, _)| *id == member.id).unwrap();
                    let tokens = member.answer.unwrap().generation.tokens;
                    assert_eq!(tokens, alone[*index], "{order:?}");
                    done += 1;
                }
            }
            assert_eq!(done, lengths.len());
        }
    }
}

#[test]
fn lengths_that_a_model_cannot_have_are_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for (trained, refused, allowed) in [
        (TRAINED, [0, 8, 20, 80], "64, or a multiple of 16 below it"),
        (24, [8, 12, 20, 32], "24, or a multiple of 16 below it"),
        (8, [4, 7, 9, 16], "8"),
    ] {
        write(&path, trained);
        let mut session = session(&load(&path, None, true));
        for len in refused {
            let expected = format!(
                "canvas: has {len} tokens, but this model was trained with canvases of {trained}: \
                 use {allowed}"
            );
            let begun = session.begin(&prompt(9), &params(Some(len))).err().unwrap();
            assert_eq!(begun.to_string(), expected);
            let denoiser = session.canvas_denoiser().unwrap();
            let begun = denoiser.begin_canvas(len).unwrap_err();
            assert_eq!(begun.to_string(), expected);
        }
        let shortest = if trained < 16 { trained } else { 16 };
        for len in [shortest, trained] {
            assert_eq!(answer(&mut session, &params(Some(len))).0.len(), 3 * len);
        }
    }
}

#[test]
fn a_template_must_fit_the_canvas_of_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, TRAINED);
    let mut session = session(&load(&path, None, true));
    let mut template = Template::new();
    template.fixed(&[5; 17]).free();
    let params = |canvas| DiffusionParams {
        templates: vec![template.clone()],
        ..params(canvas)
    };
    let begun = session.begin(&prompt(9), &params(Some(16))).err().unwrap();
    let expected = "template: has 18 positions, but a canvas has 16: shorten it";
    assert_eq!(begun.to_string(), expected);
    assert_eq!(answer(&mut session, &params(Some(32))).0.len(), 96);
}

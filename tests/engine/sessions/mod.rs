//! Sessions: what they keep, share, and report.

mod checkpoints;
mod events;
mod joins;
mod snapshots;

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::MaskedModel;
use llama_diffusion::{
    Answer, AnyModel, CancelFlag, DiffusionParams, EndTokens, Event, KvType, Model, OwnedEvent,
    Session, SessionParams, Token,
};

/// Heads of whole blocks of Q8_0, a window of 8, canvases of 16.
const GEOMETRY: Geometry = Geometry {
    head_dim: 32,
    ..Geometry::tiny()
};
/// Passes of the prefill. With this window, rings have 256 slots.
const PASS: usize = 30;
const CONTEXT: usize = 1024;

/// A model with the weights of a seed.
fn model(seed: u64) -> Arc<Model> {
    model_of(&GEOMETRY, seed)
}

fn model_of(geometry: &Geometry, seed: u64) -> Arc<Model> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, geometry, types, seed).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    Arc::new(Model::load(&path, &Default::default(), go_on).unwrap())
}

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| model(7));

fn masked(family: MaskedFamily) -> Arc<MaskedModel> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_masked(&path, family, 11, &|_| ()).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    Arc::new(MaskedModel::load(&path, &Default::default(), go_on).unwrap())
}

fn settings() -> SessionParams {
    SessionParams {
        context: Some(CONTEXT),
        batch: Some(PASS),
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    }
}

fn session(model: impl Into<AnyModel>, params: &SessionParams) -> Session {
    Session::new(model, EndTokens::default(), params).unwrap()
}

/// Canvases of this number of steps each.
fn request(max_canvases: usize, max_steps: u32) -> DiffusionParams {
    DiffusionParams {
        max_steps,
        max_tokens: None,
        max_canvases: Some(max_canvases),
        seed: 11,
        ..DiffusionParams::default()
    }
}

/// Tokens of a text with its own number, in the vocabularies of both families.
fn text(n: usize, number: usize) -> Vec<Token> {
    (0..n)
        .map(|i| (5 + (i * 17 + number * 31) % 270) as Token)
        .collect()
}

/// An answer, and every event of it.
fn answer(
    session: &mut Session,
    prompt: &[Token],
    params: &dyn llama_diffusion::diffusion::Recipe,
) -> (Answer, Vec<OwnedEvent>) {
    let mut events = Vec::new();
    let answer = session.generate(
        prompt,
        params,
        &CancelFlag::default(),
        &mut |event: Event<'_>| {
            events.push(event.into());
            ControlFlow::Continue(())
        },
    );
    (answer.unwrap(), events)
}

/// All draws of an answer to `prompt` in three steps on one canvas.
fn drafts(session: &mut Session, prompt: &[Token]) -> Vec<OwnedEvent> {
    let (_, mut events) = answer(session, prompt, &request(1, 3));
    events.retain(|event| !matches!(event, OwnedEvent::PromptEncoded(_)));
    assert_eq!(events.len(), 5);
    events
}

fn encoded(session: &mut Session) -> usize {
    let denoiser = session.canvas_denoiser().unwrap();
    denoiser.counters().tokens_encoded
}

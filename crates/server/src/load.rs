//! From the flags to a model with its sessions.

use std::ops::ControlFlow;

use llama_diffusion::chat::ChatTemplate;
use llama_diffusion::{AnyModel, Result, Session, SessionParams, TextModel};

use crate::args::Args;
use crate::engine::batch::BatchEngine;
use crate::length::LongestToken;
use crate::memory;
use crate::served::{Defaults, Served, Template, shares_steps};

/// Loads the model, and reserves the memory of all slots.
///
/// # Errors
/// The model or the flags cannot be used, or there is not enough memory.
pub fn load(args: &Args) -> Result<(Served, BatchEngine)> {
    let (served, sessions) = load_with(args, |shares| args.slots.count(shares))?;
    Ok((served, BatchEngine::new(sessions)?))
}

/// Loads the model for one answer at a time.
///
/// # Errors
/// As [`load`].
pub fn load_single(args: &Args) -> Result<(Served, Session)> {
    let (served, mut sessions) = load_with(args, |_| 1)?;
    Ok((served, sessions.remove(0)))
}

/// Loads the model, and makes the sessions of its slots, whose number depends on whether answers share
/// steps.
fn load_with(args: &Args, slots: impl Fn(bool) -> usize) -> Result<(Served, Vec<Session>)> {
    let go_on = &mut |_| ControlFlow::Continue(());
    let session = || args.canvas_session(slots(true));
    let model = args.placement.load(&session, false, go_on)?;
    let shares = shares_steps(model.model());
    let (slots, warnings) = match shares {
        true => (slots(true), &args.canvas_warnings),
        false => (slots(false), &args.masked_warnings),
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !shares && args.slots.parallel().is_some_and(|slots| slots > 1) {
        tracing::warn!("-np has no effect: a masked model answers one prompt at a time");
    }
    let sharing = args
        .slots
        .parallel()
        .filter(|_| shares)
        .map_or(1, |_| slots);
    args.session
        .warn_of_long_context(model.model().context_length(), sharing);
    let params = match shares {
        true => session()?,
        false => args.session.masked(),
    };
    let sessions = sessions(&model, &params, slots, args.slots.cache_ram())?;
    let served = served(args, model, &sessions)?;
    Ok((served, sessions))
}

/// The sessions of all slots. The first one shows what each of them takes.
fn sessions(
    model: &TextModel,
    params: &SessionParams,
    slots: usize,
    cache_ram: usize,
) -> Result<Vec<Session>> {
    let first = model.session(params)?;
    if let Some(report) = first.memory_report() {
        for warning in memory::check(&report, slots, cache_ram)? {
            tracing::warn!("{warning}");
        }
    }
    let others = (1..slots).map(|_| model.session(params));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn served(args: &Args, model: TextModel, sessions: &[Session]) -> Result<Served> {
    let reports = sessions.iter().filter_map(Session::memory_report);
    let caches = reports.flat_map(|report| report.devices);
    let kv_bytes = caches.map(|device| device.kv_cache).sum();
    let defaults = match model.model() {
        AnyModel::Canvas(canvas) => {
            let trained = canvas.hparams().canvas_length;
            Defaults::Canvas(args.canvas((&canvas.overrides(), trained))?)
        }
        AnyModel::Masked(_) => Defaults::Masked(args.masked()?),
    };
    let path = args.placement.model()?;
    let mut names = args.http.aliases();
    if names.is_empty() {
        let stem = path.as_ref().and_then(|path| path.file_name());
        let name = stem.map_or_else(|| "demo".into(), |name| name.to_string_lossy().into_owned());
        names.push(name);
    }
    Ok(Served {
        template: template(args, &model)?,
        model,
        names,
        path,
        defaults,
        seed: args.seed.0,
        slots: sessions.len(),
        limits: sessions[0].limits(),
        kv_bytes,
        thought_budget: args.thought_budget(),
        longest_token: LongestToken::default(),
    })
}

fn template(args: &Args, model: &TextModel) -> Result<Option<Template>> {
    let source: Option<String> = match args.template.source()? {
        Some(source) => Some(source),
        None => model.chat_template_source()?.map(str::to_owned),
    };
    let Some(source) = source else {
        tracing::warn!("the model has no chat template: chats are refused");
        return Ok(None);
    };
    Ok(Some(Template {
        template: ChatTemplate::new(&source)?,
        source,
        variables: args.template.variables(args.thinks()),
    }))
}

//! The endpoints that generate: from a body to jobs, and from their updates to a body or a stream.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use llama_diffusion::diffusion::Recipe;
use llama_diffusion::{CancelFlag, DiffusionParams, TextForm, Token};
use llama_diffusion_flags::values::random_seed;
use serde_json::{Map, Value};
use tokio::sync::mpsc::unbounded_channel;

use crate::access::Owner;
use crate::admission::{Full, Ticket};
use crate::answers::{Answer, Answers, Happening, Wishes, retry_after};
use crate::blocking::{at_once, blocking};
use crate::body::read_body;
use crate::drafts::{DraftSlot, Payloads};
use crate::engine::job::{Class, FormTask, Group, Job, Outlet, Task};
use crate::followed::{Begin, Followed};
use crate::outcomes::Outcomes;
use crate::plans::Plan;
use crate::protocol::answer::Usage;
use crate::protocol::assemble::Delta;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::format::{Choice, Finished, Meta};
use crate::protocol::reply::{Reply, Work};
use crate::protocol::request::{Capabilities, Request, TokenLimit};
use crate::protocol::value;
use crate::read::Reader;
use crate::reply::{error_with, json, json_stored};
use crate::served::Served;
use crate::sse::{self, Show};
use crate::state::{Ready, State};
use crate::storing::Storing;

/// Builds of the server: it begins with `b`, as those of llama-server.
pub const FINGERPRINT: &str = concat!("b1-", env!("CARGO_PKG_VERSION"));

/// Bytes of a body that is read in the task of its connection: to wake another thread would take as long.
const SHORT: usize = 4 << 10;

/// Reads the body of an endpoint.
type Read = fn(&Map<String, Value>, &Capabilities) -> Result<Work, ApiError>;

/// An endpoint that generates.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// Reads its bodies.
    pub read: Read,
    /// Writes an error before its protocol is known.
    pub error: fn(&ApiError) -> Value,
    /// Which jobs its jobs wait beside.
    pub class: Class,
    /// Whether a body is parsed in a time that depends on its length alone.
    pub is_light: bool,
}

/// An answer that has been asked for: its prompt, how it is made, and its seed.
struct Asked {
    prompt: Vec<Token>,
    plan: Plan,
    seed: u64,
}

/// Answers a request.
pub async fn respond(state: Arc<State>, endpoint: Endpoint, owner: Owner, body: Body) -> Response {
    let error = |error: ApiError| {
        state.metrics.answered(endpoint.name, "error");
        error_with(&error, &(endpoint.error)(&error))
    };
    let (id, reply, answers) = match begin(&state, endpoint, owner, body).await {
        Ok(begun) => begun,
        Err(refused) => return error(refused),
    };
    let meta = match state.ready() {
        Ok(ready) => meta(&ready.served, id),
        Err(refused) => return error(refused),
    };
    let storing = reply.stored().cloned().map(|request| {
        let store = Arc::clone(&state.responses);
        Storing::new(store, owner, meta.response_id(), request)
    });
    let outcomes = Outcomes::new(&state.metrics, endpoint.name, answers.len());
    if reply.options.stream {
        let ping = match reply.options.ping {
            None => state.config.ping,
            Some(ping) => Some(ping).filter(|ping| !ping.is_zero()),
        };
        let show = Show {
            outcomes,
            stream: reply.stream(meta, answers.prompt()),
            answers: Some(answers),
            storing,
        };
        return sse::response(sse::body(ping, |writer| show.write(writer)));
    }
    match collect(answers, outcomes).await {
        Ok(choices) => {
            let answer = || reply.answer(&meta, &choices);
            match storing {
                Some(storing) => json_stored(storing.store(answer)),
                None => json(&answer()),
            }
        }
        Err(failed) => error_with(&failed, &reply.error(&failed)),
    }
}

/// Reads a request, takes places for its answers and hands them to the engine. Returns the id too.
async fn begin(
    state: &Arc<State>,
    endpoint: Endpoint,
    owner: Owner,
    body: Body,
) -> Result<(String, Reply, Answers), ApiError> {
    let ready = state.ready()?;
    // Before any work is done for the request.
    let refuse = |limit| full(state, ready, limit);
    let ticket = ready.admission.take(owner.0).map_err(refuse)?;
    let body = read_body(body, state.config.max_body).await?;
    let served = Arc::clone(&ready.served);
    let caches = state.config.caches_prompts;
    let capabilities = served.capabilities(state.responses.of(owner));
    let is_short = endpoint.is_light && body.len() <= SHORT;
    let read = move || read(endpoint, &capabilities, &body, caches);
    let prepare = move |work| prepare(&served, work);
    let (work, asked) = match is_short {
        true => match at_once(read)? {
            work if is_quick(&work.request) => at_once(|| prepare(work))?,
            work => blocking(move || prepare(work)).await?,
        },
        false => blocking(move || prepare(read()?)).await?,
    };
    let prompts: Vec<usize> = asked.iter().map(|asked| asked.prompt.len()).collect();
    let tickets = ready.admission.extend(ticket, &prompts).map_err(refuse)?;
    let from = (endpoint.class, owner);
    let id = random_id()?;
    let answers = submit(state, ready, &work, asked, tickets, from, &id);
    Ok((id, work.reply, answers))
}

fn full(state: &State, ready: &Ready, limit: Full) -> ApiError {
    let (name, kind, problem) = match limit {
        Full::Queue => ("queue", ErrorKind::Unavailable, "the queue is full"),
        Full::Tokens => {
            let problem = "too many tokens of prompts wait";
            ("tokens", ErrorKind::Unavailable, problem)
        }
        Full::Owner => {
            let problem = "too many requests with this API key wait or run";
            ("key", ErrorKind::RateLimit, problem)
        }
    };
    state.metrics.rejected(name);
    let taken = ready.admission.taken();
    let each = state.metrics.mean_request_seconds();
    let seconds = retry_after(taken, ready.served.slots, each);
    ApiError::new(kind, format!("{problem}: try again later")).retry_after(seconds)
}

/// Parses a body. It may take long.
fn read(
    endpoint: Endpoint,
    capabilities: &Capabilities,
    body: &[u8],
    caches: bool,
) -> Result<Work, ApiError> {
    let map = value::body(body)?;
    let mut work = (endpoint.read)(&map, capabilities)?;
    if !caches && !map.contains_key("cache_prompt") {
        work.request.cache_prompt = false;
    }
    Ok(work)
}

/// Whether [`prepare`] takes a time that depends on the length of the body alone: it looks at the
/// whole vocabulary otherwise.
fn is_quick(request: &Request) -> bool {
    request.constraint.is_none() && request.known.is_none() && !request.fills_gap()
}

/// Makes prompts and recipes. It may take long.
fn prepare(served: &Served, mut work: Work) -> Result<(Work, Vec<Asked>), ApiError> {
    let request = &mut work.request;
    let first = request.seed.or(served.seed).unwrap_or_else(random_seed);
    request.seed = Some(first);
    let request = &work.request;
    let mut asked = Vec::new();
    for input in &request.inputs {
        let prompt = served.prompt(input, request)?;
        for choice in 0..request.choices {
            let seed = first.wrapping_add(choice as u64);
            asked.push(Asked {
                plan: served.plan(request, input, &prompt, seed)?,
                prompt: prompt.tokens.clone(),
                seed,
            });
        }
    }
    Ok((work, asked))
}

fn submit(
    state: &Arc<State>,
    ready: &Ready,
    work: &Work,
    asked: Vec<Asked>,
    tickets: Vec<Ticket>,
    (class, Owner(owner)): (Class, Owner),
    id: &str,
) -> Answers {
    let request = &work.request;
    let (sender, updates) = unbounded_channel();
    let begins = asked.iter().map(|asked| Begin {
        splitter: ready.served.model.splitter(&asked.prompt),
        seed: asked.seed,
    });
    let ignored = work.reply.options.ignored.clone();
    let followed = Arc::new(Followed::new(begins.collect(), ignored));
    let listed = state.register.list(id, &followed);
    let drafts = request.drafts.map(|wanted| {
        let metrics = Arc::clone(&state.metrics);
        Arc::new(DraftSlot::new(wanted, asked.len(), metrics))
    });
    if let Some(drafts) = &drafts {
        followed.add(drafts);
    }
    let wishes = Wishes {
        progress: work.reply.options.progress,
        timings: work.reply.options.timings,
        thought_budget: request.thought_budget.or(ready.served.thought_budget),
        constraint: request.constraint.as_ref().map(|it| it.field.clone()),
    };
    let mut leader = Group::default();
    let mut answers = Vec::new();
    for (index, (asked, ticket)) in asked.into_iter().zip(tickets).enumerate() {
        let group = match index % request.choices {
            0 => {
                leader = Group::default();
                leader.clone()
            }
            _ => leader.follower(),
        };
        let cancel = CancelFlag::default();
        let (served, prompt) = (&ready.served, &asked.prompt);
        // A gap has its own clock: at least one step fills it.
        let time = request.time.filter(|_| !matches!(asked.plan, Plan::Gap(_)));
        let reader = match &asked.plan {
            Plan::Gap(filling) => Reader::of_gap(served, prompt, filling),
            Plan::Edit { original, .. } => Reader::of_edit(served, prompt, original),
            Plan::Form(form) => Reader::of_form(served, prompt, form),
            Plan::Text(_) | Plan::Read(_) => Reader::new(served, prompt, request.tool_marks),
        };
        let encodes: fn() -> Box<dyn Recipe> = || Box::new(DiffusionParams::default());
        let (recipe, task) = match asked.plan {
            Plan::Text(recipe) | Plan::Edit { recipe, .. } => (recipe, None),
            Plan::Gap(filling) => (filling.recipe.boxed(), None),
            Plan::Form(form) => (encodes(), Some(Task::Form(form_task(&form)))),
            Plan::Read(read) => (encodes(), Some(Task::Read(*read))),
        };
        answers.push(Answer {
            reader,
            assembler: work.reply.assembler(),
            payloads: request
                .drafts
                .map(|drafts| Payloads::new(&ready.served, drafts.level)),
            block: 0,
            usage: Usage {
                prompt: asked.prompt.len(),
                ..Usage::default()
            },
            seed: asked.seed,
            cancel: cancel.clone(),
            form: None,
        });
        state.engine.submit(Job {
            id: state.next_job(),
            prompt: asked.prompt,
            recipe,
            cancel,
            outlet: Outlet {
                index,
                updates: sender.clone(),
                reports_prompt: wishes.progress || wishes.timings,
                followed: Arc::clone(&followed),
            },
            slot: request.slot,
            reuses: request.cache_prompt,
            encodes_only: request.tokens == TokenLimit::Tokens(0),
            task,
            time,
            class,
            owner,
            group,
            submitted: Instant::now(),
            ticket,
        });
    }
    Answers::new(answers, updates, drafts, wishes, listed, &state.metrics)
}

/// A form as the engine fills it.
fn form_task(form: &TextForm) -> FormTask {
    FormTask {
        before: form.before().to_vec(),
        form: form.form().clone(),
        params: form.params().clone(),
    }
}

/// Waits for all answers. If the client hangs up, the outcomes are dropped before the answers.
async fn collect(mut answers: Answers, mut outcomes: Outcomes) -> Result<Vec<Choice>, ApiError> {
    let mut parts: Vec<(Vec<Delta>, Option<Finished>)> = Vec::new();
    parts.resize_with(answers.len(), Default::default);
    while let Some((index, happening)) = answers.next().await.inspect_err(|_| outcomes.failed())? {
        let (deltas, finished) = &mut parts[index];
        match happening {
            Happening::Deltas { deltas: more, .. } => deltas.extend(more),
            Happening::Finished(end) => {
                outcomes.finished(&end);
                *finished = Some(*end);
            }
            Happening::Progress(_) | Happening::Payload(_) => {}
        }
    }
    let choices = parts
        .into_iter()
        .filter_map(|(deltas, finished)| Some(Choice::new(deltas, finished?)));
    Ok(choices.collect())
}

fn meta(served: &Served, id: String) -> Meta {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Meta {
        id,
        created: now.map_or(0, |now| now.as_secs()),
        model: served.names.first().cloned().unwrap_or_default(),
        fingerprint: FINGERPRINT.into(),
    }
}

/// 128 bits that nobody can guess: whoever knows an id may ask for its drafts or its response.
fn random_id() -> Result<String, ApiError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        let message = format!("the system has no random bytes: {error}");
        ApiError::new(ErrorKind::Server, message)
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

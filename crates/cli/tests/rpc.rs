//! Layers on other machines: servers of the command-line tool on the loopback interface, and
//! servers that are lost, silent or faulty. None of them may end this process.
#![cfg(feature = "rpc")]

mod common;

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::rpc::{Fault, Server, deserted, listen, proxy};
use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::{Algorithm, Filter, TransferSchedule};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::MaskedModel;
use llama_diffusion::{
    AnswerLength, CancelFlag, Device, DiffusionParams, EndTokens, Error, Event, MaskedParams,
    Model, ModelParams, Result, SamplerOverrides, Session, SessionParams, TensorOverride,
    TextModel, Token,
};
use llama_diffusion_testing::shared_dir::shared_dir;

const TIMEOUT: Duration = Duration::from_secs(60);

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(shared_dir);

fn file(name: &str, ty: TensorType) -> PathBuf {
    let path = DIR.path().join(name);
    write_synthetic(&path, &Geometry::tiny(), WeightTypes::Uniform(ty), 7).unwrap();
    path
}

static FILE: LazyLock<PathBuf> = LazyLock::new(|| file("f32.gguf", TensorType::F32));
/// Servers are asked for the sizes of its tensors: some devices pad their rows.
static QUANTIZED: LazyLock<PathBuf> = LazyLock::new(|| file("q8_0.gguf", TensorType::Q8_0));

fn add(endpoint: &str) -> Vec<Device> {
    Device::add_rpc_server(endpoint, TIMEOUT).unwrap()
}

fn on(devices: &[Device]) -> ModelParams {
    ModelParams {
        devices: Some(devices.iter().map(Device::name).collect()),
        ..ModelParams::default()
    }
}

fn load(params: &ModelParams) -> Result<Arc<Model>> {
    Model::load(&FILE, params, &mut |_| ControlFlow::Continue(())).map(Arc::new)
}

fn session(model: &Arc<Model>) -> Result<Session> {
    let params = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    Session::new(model, EndTokens::default(), &params)
}

/// Two canvases of four steps. `at` is called with the number of each completed step.
fn answer(session: &mut Session, mut at: impl FnMut(usize)) -> Result<Vec<Token>> {
    let params = DiffusionParams {
        max_steps: 4,
        max_tokens: None,
        max_canvases: Some(2),
        seed: 11,
        ..DiffusionParams::default()
    };
    let prompt: Vec<Token> = (0..40).map(|i| 5 + i * 17 % 300).collect();
    let mut steps = 0;
    let answer = session.generate(&prompt, &params, &CancelFlag::default(), &mut |event| {
        if matches!(event, Event::Draft(_)) {
            steps += 1;
            at(steps);
        }
        ControlFlow::Continue(())
    })?;
    let canvases = answer.generation.canvases.iter();
    Ok(canvases.flat_map(|c| c.tokens.clone()).collect())
}

fn whole_answer(params: &ModelParams) -> Result<Vec<Token>> {
    answer(&mut session(&load(params)?)?, |_| ())
}

/// The answer without a server. Servers have only ggml's own operations.
static EXPECTED: LazyLock<Vec<Token>> = LazyLock::new(|| {
    let model = Model::load(&FILE, &on(&[]), &mut |_| ControlFlow::Continue(()));
    let model = Arc::new(model.unwrap().without_own_kernels());
    answer(&mut session(&model).unwrap(), |_| ()).unwrap()
});

/// An answer of a quantized model through a server that may be faulty.
fn quantized_answer(endpoint: &str, timeout: Duration) -> Result<Vec<Token>> {
    let devices = Device::add_rpc_server(endpoint, timeout)?;
    let model = Model::load(
        &QUANTIZED,
        &on(&devices),
        &mut |_| ControlFlow::Continue(()),
    )?;
    answer(&mut session(&Arc::new(model))?, |_| ())
}

/// The error names the server and contains this text.
fn assert_lost<T>(result: Result<T>, endpoint: &str, part: &str) {
    match result.map(drop) {
        Err(Error::Rpc { server, problem }) => {
            assert_eq!(server, endpoint);
            assert!(problem.contains(part), "{part:?} is not in {problem:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_server_and_two_give_the_answer_of_this_machine() {
    let servers = [Server::start(), Server::start()];
    let one = add(&servers[0].endpoint);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].description(), servers[0].endpoint);
    assert_eq!(whole_answer(&on(&one)).unwrap(), *EXPECTED);

    let both = [one.clone(), add(&servers[1].endpoint)].concat();
    let shares = ModelParams {
        split: vec![1.0, 1.0],
        ..on(&both)
    };
    assert_eq!(whole_answer(&shares).unwrap(), *EXPECTED);
    // Already connected.
    assert_eq!(add(&servers[0].endpoint), one);
}

#[test]
fn parts_of_the_model_lie_where_they_are_wanted() {
    let server = Server::start();
    let device = add(&server.endpoint);
    let memory = format!("RPC0[{}]", server.endpoint);
    let experts = |memory: &str| TensorOverride {
        pattern: "exps".parse().unwrap(),
        memory: memory.into(),
    };
    for params in [
        ModelParams {
            gpu_layers: Some(0),
            overrides: vec![experts(&memory)],
            ..on(&device)
        },
        ModelParams {
            overrides: vec![experts("CPU")],
            ..on(&device)
        },
        ModelParams {
            gpu_layers: Some(2),
            ..on(&device)
        },
        ModelParams {
            kv_on_host: true,
            ..on(&device)
        },
    ] {
        assert_eq!(whole_answer(&params).unwrap(), *EXPECTED, "{params:?}");
    }
}

/// Kernels of this crate compute them, which a server does not have.
#[test]
fn experts_of_this_machine_work_beside_a_server() {
    let server = Server::start();
    let device = add(&server.endpoint);
    for no_op_offload in [false, true] {
        let params = ModelParams {
            overrides: vec![TensorOverride {
                pattern: "exps".parse().unwrap(),
                memory: "CPU".into(),
            }],
            no_op_offload,
            ..on(&device)
        };
        let path = Path::new(llama_diffusion_demo_model::PATH);
        let text = TextModel::load(path, &params, &mut |_| ControlFlow::Continue(())).unwrap();
        let template = text.chat_template().unwrap().unwrap();
        let question = [Message::new(Role::User, "What is the capital of Norway?")];
        let prompt = text
            .chat_prompt(&template, &question, Default::default())
            .unwrap();
        let settings = SessionParams {
            threads: Some(1),
            ..SessionParams::default()
        };
        let mut session = text.session(&settings).unwrap();
        let overrides = text.model().overrides();
        let params = DiffusionParams::resolve(&SamplerOverrides::default(), &overrides).unwrap();
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let answer = session.generate(&prompt, &params, &CancelFlag::default(), go_on);
        let tokens = answer.unwrap().generation.tokens;
        let said = text.vocab().detokenize(&tokens, false).unwrap();
        assert_eq!(said, "The capital of Norway is Oslo.");
    }
}

#[test]
fn a_server_that_is_killed_is_an_error_of_whatever_needs_it() {
    // While the model is loaded.
    let mut server = Server::start();
    let endpoint = server.endpoint.clone();
    let params = on(&add(&endpoint));
    let loaded = Model::load(&FILE, &params, &mut |share| {
        if share > 0.5 && server.is_running() {
            server.kill();
        }
        ControlFlow::Continue(())
    });
    assert_lost(loaded, &endpoint, "closed the connection");
    // Still so, and in a session without other work.
    assert_lost(load(&params), &endpoint, "connect again");

    // Between the model and its session, between the session and its answer.
    let mut server = Server::start();
    let endpoint = server.endpoint.clone();
    let model = load(&on(&add(&endpoint))).unwrap();
    let mut before = session(&model).unwrap();
    server.kill();
    assert_lost(
        answer(&mut before, |_| ()),
        &endpoint,
        "closed the connection",
    );
    assert_lost(
        session(&model).and_then(|mut s| answer(&mut s, |_| ())),
        &endpoint,
        "",
    );

    // In the answer: after its first step, in the middle, and in the second canvas.
    for moment in [1, 3, 6] {
        let mut server = Server::start();
        let endpoint = server.endpoint.clone();
        let model = load(&on(&add(&endpoint))).unwrap();
        let mut session = session(&model).unwrap();
        let cut = answer(&mut session, |step| {
            if step == moment {
                server.kill();
            }
        });
        assert_lost(cut, &endpoint, "closed the connection");
        assert_lost(answer(&mut session, |_| ()), &endpoint, "");
    }

    // Between two answers of a session.
    let mut server = Server::start();
    let endpoint = server.endpoint.clone();
    let model = load(&on(&add(&endpoint))).unwrap();
    let mut session = session(&model).unwrap();
    assert_eq!(answer(&mut session, |_| ()).unwrap(), *EXPECTED);
    server.kill();
    assert_lost(
        answer(&mut session, |_| ()),
        &endpoint,
        "closed the connection",
    );
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let mut server = Server::start();
    let endpoint = server.endpoint.clone();
    let port = endpoint.rsplit_once(':').unwrap().1.to_owned();
    let first = add(&endpoint);
    let model = load(&on(&first)).unwrap();
    let mut old = session(&model).unwrap();
    server.kill();
    // Nobody has noticed, but adding it again does.
    let refused = Device::add_rpc_server(&endpoint, TIMEOUT);
    assert_lost(refused, &endpoint, "nothing listens there");
    let _server = Server::with(&["-p", &port, "-t", "1"]);
    let second = add(&endpoint);
    assert_ne!(first, second);
    assert_eq!(whole_answer(&on(&second)).unwrap(), *EXPECTED);
    assert_lost(answer(&mut old, |_| ()), &endpoint, "load the model again");
    let all = Device::all();
    assert!(all.contains(&second[0]) && !all.contains(&first[0]));
}

#[test]
fn what_is_not_a_server_is_reported() {
    let add = |endpoint: &str| {
        let timeout = Duration::from_millis(300);
        let start = Instant::now();
        let refused = Device::add_rpc_server(endpoint, timeout);
        assert!(start.elapsed() < TIMEOUT, "{endpoint}");
        refused
    };
    let nobody = deserted();
    assert_lost(add(&nobody), &nobody, "nothing listens there");

    let hangs = listen(std::mem::forget);
    assert_lost(add(&hangs), &hangs, "there was no answer for 0.3 s");
    let closes = listen(drop);
    assert_lost(
        add(&closes),
        &closes,
        "closed the connection during the handshake",
    );
    let http = listen(|mut client| {
        let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = client.read(&mut [0; 99]);
    });
    assert_lost(add(&http), &http, "it is not an RPC server");

    // Replies of other versions: one with the size of today's, one as it was.
    for (version, size) in [([7, 99, 0], 28), ([6, 0, 0], 28), ([3, 6, 1], 3)] {
        let [major, minor, patch] = version;
        let other = listen(move |mut client| {
            let _ = client.read(&mut [0; 33]);
            let mut reply = vec![0; 8 + size];
            reply[0] = size as u8;
            reply[8..11].copy_from_slice(&version);
            let _ = client.write_all(&reply);
            let _ = client.read(&mut [0; 99]);
        });
        let problem = format!("version of the protocol is {major}.{minor}.{patch}");
        assert_lost(add(&other), &other, &problem);
    }

    let unknown = "no-such-host.invalid:50052";
    assert_lost(add(unknown), unknown, "'no-such-host.invalid'");
    for wrong in ["", "host", "host:", ":5", "::1:50052", "host:99999"] {
        match Device::add_rpc_server(wrong, TIMEOUT) {
            Err(Error::InvalidParameter { problem, .. }) => {
                assert!(problem.contains("HOST:PORT"), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(Device::add_rpc_server(&nobody, Duration::ZERO).is_err());
}

#[test]
fn ipv6() {
    let server = Server::with(&["-H", "::1", "-p", "0", "-t", "1"]);
    assert!(server.endpoint.starts_with("[::1]:"), "{}", server.endpoint);
    assert_eq!(
        whole_answer(&on(&add(&server.endpoint))).unwrap(),
        *EXPECTED
    );
}

/// The bytes of all replies in a whole answer.
fn replies(server: &Server) -> usize {
    let (endpoint, count) = proxy(&server.endpoint, Fault::None);
    quantized_answer(&endpoint, TIMEOUT).unwrap();
    *count.lock().unwrap()
}

#[test]
fn a_connection_that_is_cut_or_hangs_anywhere_is_an_error() {
    let server = Server::start();
    let total = replies(&server);
    let moments = (0..12).map(|i| i * (total - 1) / 11);
    for (i, moment) in moments.enumerate() {
        let short = Duration::from_secs(2);
        let (fault, timeout, part) = match i % 2 {
            0 => (Fault::Cut(moment), TIMEOUT, "closed the connection"),
            _ => (Fault::Hang(moment), short, "there was no answer for 2 s"),
        };
        let (endpoint, _) = proxy(&server.endpoint, fault);
        assert_lost(quantized_answer(&endpoint, timeout), &endpoint, part);
    }
}

#[test]
fn replies_with_a_wrong_byte_end_nothing() {
    let server = Server::start();
    let total = replies(&server);
    let mut errors = 0;
    // Every byte of the first replies, and some of the later ones.
    let moments = (0..200)
        .step_by(7)
        .chain((0..24).map(|i| 200 + i * (total - 201) / 23));
    for moment in moments {
        let (endpoint, _) = proxy(&server.endpoint, Fault::Flip(moment));
        let run = quantized_answer(&endpoint, Duration::from_secs(10));
        // A wrong number in a tensor cannot be distinguished from a right one.
        errors += usize::from(run.is_err());
    }
    assert!(errors > 5, "{errors}");
}

#[test]
fn a_server_without_memory_is_an_error_as_for_any_device() {
    let server = Server::start();
    let devices = add(&server.endpoint);
    let model = load(&on(&devices)).unwrap();
    let params = SessionParams {
        threads: Some(1),
        context: Some(1 << 30),
        ..SessionParams::default()
    };
    match Session::new(&model, EndTokens::default(), &params) {
        Err(Error::OutOfMemory { device, .. }) => {
            assert_eq!(device, format!("RPC0[{}]", server.endpoint));
        }
        other => panic!("{:?}", other.map(drop)),
    }
    let mut session = session(&model).unwrap();
    assert_eq!(answer(&mut session, |_| ()).unwrap(), *EXPECTED);
}

#[test]
fn threads_share_a_server() {
    let server = Server::start();
    let model = load(&on(&add(&server.endpoint))).unwrap();
    // Short passes, the same graph again and again: the server is asked to compute its last one
    // again, which must not be that of another thread.
    let params = SessionParams {
        threads: Some(1),
        batch: Some(4),
        ..SessionParams::default()
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let mut session = Session::new(&model, EndTokens::default(), &params).unwrap();
                    assert_eq!(answer(&mut session, |_| ()).unwrap(), *EXPECTED);
                }
            });
        }
    });
}

fn masked_answer(
    path: &Path,
    params: &ModelParams,
    mut at: impl FnMut(usize),
) -> Result<Vec<Token>> {
    let model = MaskedModel::load(path, params, &mut |_| ControlFlow::Continue(()))?;
    let settings = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    let mut session = Session::new(&Arc::new(model), EndTokens::default(), &settings)?;
    let params = MaskedParams {
        length: AnswerLength::Text(21),
        schedule: TransferSchedule::Timestep {
            steps: 8,
            eps: 0.01,
        },
        algorithm: Algorithm::Confidence,
        algorithm_temperature: 0.0,
        temperature: 0.0,
        filter: Filter::NONE,
        guidance: 0.0,
        gumbel_noise: false,
        seed: 3,
        ..MaskedParams::default()
    };
    let prompt = [2, 270, 31, 280, 99];
    let mut steps = 0;
    let answer = session.generate(&prompt, &params, &CancelFlag::default(), &mut |event| {
        if matches!(event, Event::Draft(_)) {
            steps += 1;
            at(steps);
        }
        ControlFlow::Continue(())
    })?;
    let canvases = answer.generation.canvases.iter();
    Ok(canvases.flat_map(|c| c.tokens.clone()).collect())
}

#[test]
fn masked_models_run_on_servers_and_survive_their_end() {
    let path = DIR.path().join("masked.gguf");
    write_masked(&path, MaskedFamily::Dream, 11, &|_| ()).unwrap();
    let expected = masked_answer(&path, &on(&[]), |_| ()).unwrap();
    let mut server = Server::start();
    let endpoint = server.endpoint.clone();
    let params = on(&add(&endpoint));
    assert_eq!(masked_answer(&path, &params, |_| ()).unwrap(), expected);
    let cut = masked_answer(&path, &params, |step| {
        if step == 2 {
            server.kill();
        }
    });
    assert_lost(cut, &endpoint, "closed the connection");
    assert_lost(masked_answer(&path, &params, |_| ()), &endpoint, "");
}

/// A handler without SA_RESTART, as in Python: system calls fail in the thread that receives the
/// signal.
#[cfg(target_os = "linux")]
#[test]
fn signals_of_the_host_interrupt_no_connection() {
    use std::sync::atomic::{AtomicBool, Ordering};

    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: a handler that does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
    }
    let server = Server::start();
    let devices = add(&server.endpoint);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
                    let id: libc::pid_t = task.file_name().to_str().unwrap().parse().unwrap();
                    // SAFETY: a thread that has ended receives nothing.
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, libc::SIGUSR1) };
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let answer = whole_answer(&on(&devices));
        done.store(true, Ordering::Relaxed);
        assert_eq!(answer.unwrap(), *EXPECTED);
    });
}

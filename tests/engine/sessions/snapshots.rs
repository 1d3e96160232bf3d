//! Snapshots: a session that restores one continues like the one it was taken of.

use std::fs;
use std::path::Path;

use llama_diffusion::diffusion::{Algorithm, Filter, TransferSchedule};
use llama_diffusion::{AnswerLength, Error, KvType, MaskedParams, SessionParams, Snapshot};
use llama_diffusion_testing::model_file::Editable;

use super::*;

/// Passes and lengths: rings of 256 slots when they are first filled, after two wraps, and with a
/// window that spans their seam. Whole passes, so that a fresh session encodes a longer prompt in
/// the same ones.
const LENGTHS: [(usize, usize); 3] = [(PASS, 2 * PASS), (PASS, 20 * PASS), (37, 7 * 37)];
const KV_TYPES: [KvType; 3] = [KvType::F16, KvType::F32, KvType::Q8_0];

fn with_kv(kv_type: KvType) -> SessionParams {
    SessionParams {
        kv_type,
        ..settings()
    }
}

/// The settings and the length of each case.
fn cases() -> impl Iterator<Item = (SessionParams, usize)> {
    KV_TYPES.into_iter().flat_map(|kv_type| {
        LENGTHS.map(|(pass, length)| {
            let params = SessionParams {
                batch: Some(pass),
                ..with_kv(kv_type)
            };
            (params, length)
        })
    })
}

#[test]
fn restored_and_forked_sessions_answer_as_fresh_ones() {
    for (params, length) in cases() {
        let what = format!("{:?}, {length} tokens", params.kv_type);
        let mut origin = session(&*MODEL, &params);
        origin.prefill(&text(length, 0)).unwrap();
        let snapshot = origin.snapshot().unwrap();
        assert_eq!(snapshot.tokens(), text(length, 0));
        assert!(snapshot.bytes() > 0);
        let mut fork = origin.fork().unwrap();

        let longer = [text(length, 0), vec![3, 1, 4]].concat();
        let mut fresh = session(&*MODEL, &params);
        let expected = drafts(&mut fresh, &longer);
        let mut restored = session(&*MODEL, &params);
        // Another text is dropped, wherever it left the rings.
        restored.prefill(&text(777, 1)).unwrap();
        restored.restore(&snapshot).unwrap();
        for (name, ours) in [
            ("origin", &mut origin),
            ("fork", &mut fork),
            ("restored", &mut restored),
        ] {
            assert_eq!(ours.cached(), text(length, 0), "{what}: {name}");
            let before = encoded(ours);
            assert_eq!(drafts(ours, &longer), expected, "{what}: {name}");
            assert_eq!(encoded(ours) - before, 3, "{what}: {name}");
            assert_eq!(ours.cached(), longer, "{what}: {name}");
        }
        // The same again after another text.
        drafts(&mut fork, &text(500, 2));
        fork.restore(&snapshot).unwrap();
        assert_eq!(fork.snapshot().unwrap(), snapshot, "{what}");
        assert_eq!(drafts(&mut fork, &longer), expected, "{what}");
    }
}

#[test]
fn what_was_written_is_part_of_a_snapshot() {
    for (params, length) in cases() {
        let mut origin = session(&*MODEL, &params);
        let (first, _) = answer(&mut origin, &text(length, 0), &request(4, 2));
        let canvases = &first.generation.canvases[..3];
        let mut longer = text(length, 0);
        longer.extend(canvases.iter().flat_map(|canvas| &canvas.tokens));
        assert_eq!(origin.cached(), longer);
        let mut restored = session(&*MODEL, &params);
        restored.restore(&origin.snapshot().unwrap()).unwrap();
        longer.extend([3, 1, 4]);
        assert_eq!(
            drafts(&mut restored, &longer),
            drafts(&mut origin, &longer),
            "{:?}, {length} tokens",
            params.kv_type
        );
    }
}

#[test]
fn a_restored_ring_goes_back_no_further_than_its_window() {
    let mut origin = session(&*MODEL, &settings());
    origin.prefill(&text(600, 0)).unwrap();
    let branch = |at: usize| [text(at, 0), vec![3, 1, 4]].concat();
    assert_eq!(origin.usable_prefix(&branch(599)), 599);
    let mut restored = origin.fork().unwrap();
    // The window of 8 before the end, and no position before it.
    assert_eq!(restored.usable_prefix(&branch(600)), 600);
    assert_eq!(restored.usable_prefix(&branch(599)), 0);
    let fresh = drafts(&mut session(&*MODEL, &settings()), &branch(599));
    assert_eq!(drafts(&mut restored, &branch(599)), fresh);
    // That text was encoded from its start: the rings hold more of it.
    assert_eq!(restored.usable_prefix(&branch(500)), 500);
    // A text within the window of the start can return to any point.
    let mut short = session(&*MODEL, &settings());
    short.prefill(&text(7, 0)).unwrap();
    let short = short.fork().unwrap();
    assert_eq!(short.usable_prefix(&branch(3)), 3);
}

/// A template that drops the thoughts of an answer continues from the end of its prompt, in another
/// process, too.
#[test]
fn a_file_keeps_the_ends_of_earlier_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let prompt = 10 * PASS;
    let longer = [text(prompt, 0), vec![3, 1, 4]].concat();
    for kv_type in KV_TYPES {
        let params = with_kv(kv_type);
        let fresh = drafts(&mut session(&*MODEL, &params), &longer);
        // Rings that still hold the end of the prompt, and rings that have moved on.
        for canvases in [4, 20] {
            let mut origin = session(&*MODEL, &params);
            answer(&mut origin, &text(prompt, 0), &request(canvases, 1));
            let snapshot = origin.snapshot().unwrap();
            snapshot.save(&path).unwrap();
            let loaded = Snapshot::load(&path).unwrap();
            assert_eq!(loaded, snapshot);
            let mut restored = session(&*MODEL, &params);
            restored.restore(&loaded).unwrap();
            assert_eq!(restored.cached(), origin.cached());
            assert_eq!(restored.snapshot().unwrap(), snapshot);
            assert_eq!(restored.usable_prefix(&longer), prompt, "{canvases}");
            let before = encoded(&mut restored);
            assert_eq!(drafts(&mut restored, &longer), fresh, "{canvases}");
            assert_eq!(encoded(&mut restored) - before, 3, "{canvases}");
            let without = SessionParams {
                checkpoints: Some(0),
                ..params.clone()
            };
            let mut without = session(&*MODEL, &without);
            without.restore(&loaded).unwrap();
            assert_eq!(without.usable_prefix(&longer), 0);
        }
    }
}

/// As many of the latest as a session keeps.
#[test]
fn checkpoints_beyond_the_maximum_are_not_restored() {
    let ends = [5 * PASS, 6 * PASS, 7 * PASS];
    let keeping = |count: usize| {
        let params = SessionParams {
            checkpoints: Some(count),
            ..settings()
        };
        session(&*MODEL, &params)
    };
    let mut origin = keeping(3);
    for end in ends {
        answer(&mut origin, &text(end, 0), &request(20, 1));
    }
    let snapshot = origin.snapshot().unwrap();
    let branch = |at: usize| [text(at, 0), vec![3, 1, 4]].concat();
    for (count, first) in [(3, 0), (2, 1), (1, 2)] {
        let mut restored = keeping(count);
        restored.restore(&snapshot).unwrap();
        for (index, end) in ends.into_iter().enumerate() {
            let kept = if index < first { 0 } else { end };
            assert_eq!(restored.usable_prefix(&branch(end)), kept, "{count}, {end}");
        }
    }
}

#[test]
fn a_larger_context_takes_a_snapshot() {
    let small = SessionParams {
        context: Some(100),
        ..settings()
    };
    let mut origin = session(&*MODEL, &small);
    origin.prefill(&text(60, 0)).unwrap();
    let mut restored = session(&*MODEL, &settings());
    restored.restore(&origin.snapshot().unwrap()).unwrap();
    let longer = [text(60, 0), vec![3, 1, 4]].concat();
    assert_eq!(
        drafts(&mut restored, &longer),
        drafts(&mut session(&*MODEL, &settings()), &longer)
    );
}

#[test]
fn a_file_gives_back_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    for (params, length) in cases() {
        let mut origin = session(&*MODEL, &params);
        origin.prefill(&text(length, 0)).unwrap();
        let snapshot = origin.snapshot().unwrap();
        // Over the previous one.
        snapshot.save(&path).unwrap();
        let loaded = Snapshot::load(&path).unwrap();
        assert_eq!(loaded, snapshot);
        let mut restored = session(&*MODEL, &params);
        restored.restore(&loaded).unwrap();
        let longer = [text(length, 0), vec![3, 1, 4]].concat();
        assert_eq!(drafts(&mut restored, &longer), drafts(&mut origin, &longer));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let nothing = dir.path().join("nothing");
    let error = Snapshot::load(&nothing).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
    let nowhere = dir.path().join("nowhere").join("session");
    let error = session(&*MODEL, &settings()).snapshot().unwrap();
    let error = error.save(&nowhere).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

/// The error of a file with these bytes.
fn refused(path: &Path, bytes: &[u8], what: &str) -> String {
    fs::write(path, bytes).unwrap();
    match Snapshot::load(path) {
        Err(Error::File {
            path: named,
            problem,
        }) => {
            assert_eq!(named, path);
            problem
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let mut canvas = session(&*MODEL, &with_kv(KvType::Q8_0));
    canvas.prefill(&text(3, 0)).unwrap();
    let mut unprompted = session(&masked(MaskedFamily::Llada), &SessionParams::default());
    unprompted.prefill(&text(3, 0)).unwrap();
    for session in [canvas, unprompted] {
        session.snapshot().unwrap().save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            let what = format!("{length} of {} bytes", whole.len());
            refused(&path, &whole[..length], &what);
        }
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                refused(&path, &bytes, &format!("byte {at}, {flip:#x}"));
            }
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(refused(&path, &longer, "longer").contains("damaged"));
        let other = refused(&path, &[b'x'; 100], "another file");
        assert!(other.contains("not a saved session"), "{other}");
        fs::write(&path, &whole).unwrap();
        assert_eq!(Snapshot::load(&path).unwrap(), session.snapshot().unwrap());
    }
}

#[test]
fn errors_name_the_snapshot_that_does_not_fit() {
    let taken = |model: &Arc<Model>, params: &SessionParams, length: usize| {
        let mut session = session(model, params);
        session.prefill(&text(length, 0)).unwrap();
        session.snapshot().unwrap()
    };
    let mut unprompted = session(&masked(MaskedFamily::Dream), &SessionParams::default());
    unprompted.prefill(&text(60, 0)).unwrap();
    let fits = taken(&MODEL, &settings(), 60);
    let small = SessionParams {
        context: Some(200),
        ..settings()
    };
    let fresh = drafts(&mut session(&*MODEL, &small), &text(60, 0));
    let mut ours = session(&*MODEL, &small);
    for (snapshot, why) in [
        (taken(&model(8), &settings(), 60), "another model"),
        (unprompted.snapshot().unwrap(), "another model"),
        (taken(&MODEL, &with_kv(KvType::F16), 60), "F16"),
        (taken(&MODEL, &settings(), 300), "larger context"),
    ] {
        // Whether or not it has encoded anything.
        ours.prefill(&text(40, 1)).unwrap();
        let error = ours.restore(&snapshot).unwrap_err().to_string();
        assert!(
            error.contains("snapshot") && error.contains(why),
            "{why}: {error}"
        );
        assert!(ours.cached().is_empty(), "{why}");
        assert_eq!(drafts(&mut ours, &text(60, 0)), fresh, "{why}");
    }
    ours.restore(&fits).unwrap();
    assert_eq!(ours.usable_prefix(&text(60, 0)), 60);
    let error = unprompted.restore(&fits).unwrap_err().to_string();
    assert!(error.contains("another model"), "{error}");
}

#[test]
fn masked_families_keep_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let params = MaskedParams {
        length: AnswerLength::Tokens(8),
        schedule: TransferSchedule::Timestep {
            steps: 4,
            eps: 0.01,
        },
        algorithm: Algorithm::Confidence,
        algorithm_temperature: 0.0,
        temperature: 0.7,
        filter: Filter::NONE,
        guidance: 0.0,
        gumbel_noise: false,
        seed: 3,
        ..MaskedParams::default()
    };
    for family in MaskedFamily::ALL {
        let model = masked(family);
        let params_of = SessionParams {
            context: Some(64),
            threads: Some(1),
            ..SessionParams::default()
        };
        let mut origin = session(&model, &params_of);
        let (_, expected) = answer(&mut origin, &text(20, 0), &params);
        let snapshot = origin.snapshot().unwrap();
        assert_eq!(snapshot.tokens(), text(20, 0), "{family:?}");
        snapshot.save(&path).unwrap();
        let loaded = Snapshot::load(&path).unwrap();
        assert_eq!(loaded, snapshot);
        let mut restored = session(&model, &params_of);
        restored.restore(&loaded).unwrap();
        for mut ours in [restored, origin.fork().unwrap()] {
            assert_eq!(ours.snapshot().unwrap(), snapshot, "{family:?}");
            let (_, events) = answer(&mut ours, &text(20, 0), &params);
            assert_eq!(events, expected, "{family:?}");
        }
        let tight = SessionParams {
            context: Some(20),
            ..params_of
        };
        let mut tight = session(&model, &tight);
        let error = tight.restore(&loaded).unwrap_err().to_string();
        assert!(error.contains("context"), "{error}");
        assert!(tight.snapshot().unwrap().tokens().is_empty());
    }
}

#[test]
fn a_fingerprint_sees_settings_and_both_ends_of_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let fingerprint = |file: &Editable| {
        file.save(&path);
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = AnyModel::load(&path, &Default::default(), go_on).unwrap();
        model.fingerprint()
    };
    let file = Editable::tiny();
    let own = fingerprint(&file);
    assert_eq!(fingerprint(&file), own);
    // It says nothing about keys and values.
    assert_eq!(
        fingerprint(&file.clone().with("general.name", "other")),
        own
    );
    let mut others = vec![
        file.clone()
            .with("diffusion-gemma.attention.sliding_window", 9_u32),
        file.clone()
            .with("diffusion-gemma.rope.freq_base", 12_345.0_f32),
    ];
    for tensor in [0, file.tensors.len() / 2, file.tensors.len() - 1] {
        for at_end in [false, true] {
            let mut other = file.clone();
            let values = &mut other.tensors[tensor].data;
            // The lowest byte of a number.
            let at = if at_end { values.len() - 4 } else { 0 };
            values[at] ^= 1;
            others.push(other);
        }
    }
    for (number, other) in others.iter().enumerate() {
        assert_ne!(fingerprint(other), own, "{number}");
    }
}

//! A conversation returns to the end of an earlier prompt after the rings have moved on.

use llama_diffusion::diffusion::Denoiser;
use llama_diffusion::{KvType, SessionParams};

use super::*;

/// Whole passes, so that a fresh session encodes the prompt in the same ones.
const PROMPT: usize = 10 * PASS;

#[test]
fn a_prompt_that_goes_on_from_the_last_one_is_read_from_there() {
    // The window before the end of the second prompt spans the seam of the rings.
    for (pass, length) in [(PASS, PROMPT), (37, 7 * 37)] {
        for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
            let params = SessionParams {
                kv_type,
                batch: Some(pass),
                ..settings()
            };
            let what = format!("{kv_type:?}, {length} tokens");
            let mut warm = session(&*MODEL, &params);
            // More canvases than a ring has room for.
            answer(&mut warm, &text(length, 0), &request(20, 1));
            assert_eq!(warm.cached().len(), length + 19 * 16);
            let longer = [text(length, 0), vec![3, 1, 4]].concat();
            assert_eq!(warm.usable_prefix(&longer), length, "{what}");
            // Nothing before the checkpoint remains.
            assert_eq!(warm.usable_prefix(&longer[..length - 1]), 0);

            let before = encoded(&mut warm);
            let drawn = drafts(&mut warm, &longer);
            assert_eq!(encoded(&mut warm) - before, 3, "{what}");
            let fresh = drafts(&mut session(&*MODEL, &params), &longer);
            assert_eq!(drawn, fresh, "{what}");
        }
    }
}

#[test]
fn without_checkpoints_all_is_read_again() {
    let params = SessionParams {
        checkpoints: Some(0),
        ..settings()
    };
    let mut warm = session(&*MODEL, &params);
    answer(&mut warm, &text(PROMPT, 0), &request(20, 1));
    let longer = [text(PROMPT, 0), vec![3, 1, 4]].concat();
    assert_eq!(warm.usable_prefix(&longer), 0);
    let before = encoded(&mut warm);
    let drawn = drafts(&mut warm, &longer);
    assert_eq!(encoded(&mut warm) - before, PROMPT + 3);
    assert_eq!(drawn, drafts(&mut session(&*MODEL, &params), &longer));
}

#[test]
fn the_ends_of_the_latest_prompts_are_kept() {
    let params = SessionParams {
        checkpoints: Some(2),
        ..settings()
    };
    let mut warm = session(&*MODEL, &params);
    let ends = [5 * PASS, 6 * PASS, 7 * PASS];
    // Each answer is dropped from the prompt that follows it.
    for (end, kept) in ends.into_iter().zip([0, ends[0], ends[1]]) {
        let (answer, _) = answer(&mut warm, &text(end, 0), &request(20, 1));
        assert_eq!(answer.reused, kept);
    }
    // An answer to the same prompt again does not cost an earlier checkpoint.
    let (again, _) = answer(&mut warm, &text(ends[2], 0), &request(20, 1));
    assert_eq!(again.reused, ends[2]);
    let branch = |at: usize| [text(at, 0), vec![3, 1, 4]].concat();
    for (at, kept) in [
        (ends[2], ends[2]),
        (ends[2] - 1, ends[1]),
        (ends[1], ends[1]),
        (ends[1] - 1, 0), // two are kept
        (ends[0], 0),
    ] {
        assert_eq!(warm.usable_prefix(&branch(at)), kept, "{at}");
    }
    // Back again, one after the other: what a later one overwrote is restored with the earlier one.
    for at in [ends[2], ends[1]] {
        let fresh = drafts(&mut session(&*MODEL, &params), &branch(at));
        assert_eq!(drafts(&mut warm, &branch(at)), fresh, "{at}");
    }
}

#[test]
fn a_checkpoint_of_a_text_that_was_dropped_is_not_used() {
    let mut warm = session(&*MODEL, &settings());
    for (length, number) in [(5 * PASS, 0), (PROMPT, 1)] {
        answer(&mut warm, &text(length, number), &request(20, 1));
    }
    // After the end of the first text, before that of the second one.
    let branch = [text(6 * PASS, 1), vec![3, 1, 4]].concat();
    assert_eq!(warm.usable_prefix(&branch), 0);
    let fresh = drafts(&mut session(&*MODEL, &settings()), &branch);
    assert_eq!(drafts(&mut warm, &branch), fresh);
}

#[test]
fn a_checkpoint_is_made_before_its_first_position_is_overwritten() {
    let geometry = Geometry {
        canvas_length: 25,
        ..GEOMETRY
    };
    let model = model_of(&geometry, 7);
    let mut warm = session(&model, &settings());
    // The window begins 7 positions before the end, and the tenth canvas writes 250 after it: of
    // the window the 256 slots lose the first position alone.
    answer(&mut warm, &text(PROMPT, 0), &request(12, 1));
    let longer = [text(PROMPT, 0), vec![3, 1, 4]].concat();
    assert_eq!(warm.usable_prefix(&longer), PROMPT);
    let fresh = drafts(&mut session(&model, &settings()), &longer);
    assert_eq!(drafts(&mut warm, &longer), fresh);
}

#[test]
fn a_position_that_the_rings_have_lost_gets_no_checkpoint() {
    let mut warm = session(&*MODEL, &settings());
    warm.prefill(&text(600, 0)).unwrap();
    let denoiser = warm.canvas_denoiser().unwrap();
    denoiser.protect(100);
    denoiser.begin_canvas(16).unwrap();
    assert_eq!(denoiser.usable_prefix(100), 0);
}

//! Forms and reads between the steps of answers.

use llama_diffusion::form::{Blank, BlankKind, Form, FormParams, Piece};

use super::super::job::{FormTask, Task};
use super::*;

/// A form that takes so many passes; 0 cannot be filled.
fn form(passes: u64) -> Task {
    let kind = BlankKind::Free(vec![None]);
    let name = "1".into();
    Task::Form(FormTask {
        before: Vec::new(),
        form: Form::new(vec![Piece::Blank(Blank { name, kind })]).unwrap(),
        params: FormParams {
            seed: passes,
            ..FormParams::default()
        },
    })
}

#[test]
fn a_form_is_filled_once_its_prompt_is_encoded() {
    let mut bench = Bench::new(Scripted::new(2), 0);
    let mut other = bench.submit(&[1, 2, 3]);
    let (mut job, mut updates) = bench.job(&[4; 2 * PASS]);
    job.task = Some(form(3));
    bench.scheduler.submit(job);
    bench.tick();
    assert_eq!(
        received(&mut updates),
        Got::Nothing,
        "half of it is encoded"
    );
    bench.finish();
    let mut ended = None;
    while let Ok((_, update)) = updates.try_recv() {
        match update {
            Update::Found {
                found: Found::Form(form),
                ..
            } => assert_eq!(form.tokens, [4; 2 * PASS]),
            Update::Ended(end) => ended = Some(end),
            other => assert!(matches!(other, Update::Encoded(_)), "{other:?}"),
        }
    }
    let ended = ended.unwrap();
    assert_eq!(ended.reason, EndReason::EndOfText);
    assert_eq!((ended.completion, ended.statistics.steps), (2 * PASS, 3));
    assert_eq!(received(&mut other), answer(&[1, 2, 3]));
    // Again, with nothing to encode: it is filled at once.
    let (mut job, mut updates) = bench.job(&[4; 2 * PASS]);
    job.task = Some(form(1));
    bench.scheduler.submit(job);
    bench.tick();
    let expected = Got::Answer(vec![4; 2 * PASS], EndReason::EndOfText);
    assert_eq!(received(&mut updates), expected);
    assert!(bench.scheduler.is_idle());
}

#[test]
fn a_form_that_cannot_be_filled_fails_alone() {
    let mut bench = Bench::new(Scripted::new(2), 0);
    let mut other = bench.submit(&[1, 2, 3]);
    let (mut job, mut updates) = bench.job(&[5]);
    job.task = Some(form(0));
    bench.scheduler.submit(job);
    let (mut job, mut cancelled) = bench.job(&[6]);
    job.task = Some(form(1));
    let cancel = job.cancel.clone();
    bench.scheduler.submit(job);
    cancel.cancel();
    bench.finish();
    let got = received(&mut updates);
    assert!(
        matches!(got, Got::Failed(Failure::Refused { .. })),
        "{got:?}"
    );
    assert_eq!(received(&mut cancelled), Got::Nothing);
    assert_eq!(received(&mut other), answer(&[1, 2, 3]));
}

/// Others answer between the passes of two forms, which take turns and keep their places and slots.
#[test]
fn forms_are_filled_between_the_steps_of_answers() {
    const PASSES: u64 = 50;
    let mut bench = Bench::new(Scripted::new(3), 0);
    let mut forms = Vec::new();
    for prompt in [[1], [2]] {
        let (mut job, updates) = bench.job(&prompt);
        job.task = Some(form(PASSES));
        forms.push((job.cancel.clone(), updates));
        bench.scheduler.submit(job);
    }
    // Both prompts are encoded, and a pass of the first one is done.
    bench.tick();
    let busy = |bench: &Bench| {
        let shown = bench.board.read();
        shown.slots.iter().filter(|slot| slot.is_busy).count()
    };
    assert_eq!((busy(&bench), bench.admission.taken()), (2, 2));
    let mut client = bench.submit(&[7, 2]);
    // A pass over its prompt, and two canvases of two steps.
    for _ in 0..5 {
        bench.tick();
    }
    assert_eq!(received(&mut client), answer(&[7, 2]));
    assert_eq!((busy(&bench), bench.admission.taken()), (2, 2));
    // A client of a form hangs up.
    let (cancel, updates) = forms.remove(0);
    drop(updates);
    cancel.cancel();
    let ticks = bench.finish();
    let (_, mut other) = forms.remove(0);
    assert!(matches!(received(&mut other), Got::Answer(..)));
    assert!(ticks < PASSES as usize, "{ticks} passes after the hang-up");
    let text = bench.metrics.text(&Shown::default(), 0, (0, 0)).unwrap();
    for line in [
        "llama_diffusion_cancelled_total{while=\"running\"} 1",
        "llama_diffusion_queue_seconds_count 3",
        "llama_diffusion_request_seconds_count 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

#[test]
fn three_forms_that_fail_in_a_row_break_the_engine() {
    let engine = Scripted::new(1).fail([false, true, false, false, true, true, true]);
    let mut bench = Bench::new(engine, 0);
    let submit = |bench: &mut Bench| {
        let (mut job, updates) = bench.job(&[1]);
        job.task = Some(form(2));
        bench.scheduler.submit(job);
        updates
    };
    // The prompt is encoded once. The second form is filled, so that the first does not count.
    let mut clients: Vec<Updates> = (0..5).map(|_| submit(&mut bench)).collect();
    let mut outcome = Ok(());
    for _ in 0..20 {
        outcome = outcome.and_then(|()| bench.scheduler.tick());
    }
    assert_eq!(outcome, Err(Broken));
    let got: Vec<bool> = clients
        .iter_mut()
        .map(|client| matches!(received(client), Got::Answer(..)))
        .collect();
    assert_eq!(got, [false, true, false, false, false]);
}

/// What was found of a form that the end of the server cuts short is not an answer.
#[test]
fn a_form_that_is_stopped_has_no_answer_wherever_it_is() {
    let mut bench = Bench::new(Scripted::new(3), 0);
    let mut clients = Vec::new();
    for prompt in [vec![1], vec![2; 3 * PASS]] {
        let (mut job, updates) = bench.job(&prompt);
        job.task = Some(form(50));
        clients.push(updates);
        bench.scheduler.submit(job);
    }
    let mut chat = bench.submit(&[900]);
    bench.tick();
    bench.tick();
    bench.scheduler.stop_running();
    bench.finish();
    for client in &mut clients {
        assert_eq!(received(client), Got::Failed(Failure::Draining));
    }
    assert!(matches!(
        received(&mut chat),
        Got::Answer(_, EndReason::Stopped)
    ));
}

#[test]
fn a_failed_step_of_others_is_not_one_of_a_form() {
    // Both are encoded, then a pass of the form and the failing step.
    let engine = Scripted::new(2).fail([false, false, true]);
    let mut bench = Bench::new(engine, 0);
    let (mut job, mut updates) = bench.job(&[1]);
    job.task = Some(form(5));
    bench.scheduler.submit(job);
    let mut other = bench.submit(&[3, 2]);
    bench.finish();
    assert!(matches!(received(&mut updates), Got::Answer(..)));
    assert!(matches!(
        received(&mut other),
        Got::Failed(Failure::Engine(_))
    ));
}

/// It does not wait for its turn.
#[test]
fn a_form_leaves_its_slot_at_the_next_step_after_a_hang_up() {
    const FORMS: usize = 4;
    let mut bench = Bench::new(Scripted::new(FORMS), 0);
    let mut forms = Vec::new();
    for prompt in 1..=FORMS {
        let (mut job, updates) = bench.job(&[prompt as Token]);
        job.task = Some(form(50));
        forms.push((job.cancel.clone(), updates));
        bench.scheduler.submit(job);
    }
    bench.tick();
    for (cancel, updates) in forms.drain(1..) {
        drop(updates);
        cancel.cancel();
    }
    let mut client = bench.submit(&[7, 1]);
    bench.tick();
    assert_eq!(
        bench.admission.taken(),
        2,
        "the form that is left, and the answer"
    );
    bench.finish();
    assert_eq!(received(&mut client), answer(&[7, 1]));
    assert!(matches!(received(&mut forms[0].1), Got::Answer(..)));
    let text = bench.metrics.text(&Shown::default(), 0, (0, 0)).unwrap();
    let line = "llama_diffusion_cancelled_total{while=\"running\"} 3";
    assert!(text.lines().any(|found| found == line), "{text}");
}

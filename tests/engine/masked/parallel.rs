//! Steps that unmask more than the schedule asks for, and answers that end early, against the
//! reference's own rules.

use llama_diffusion::diffusion::Parallel;

use super::*;

/// The largest n with (n + 1)(1 − p) below a factor.
fn factor(factor: f64) -> impl Fn(&[f64]) -> usize {
    move |best: &[f64]| {
        let mut count = 0;
        for n in 1..=best.len() {
            if (n + 1) as f64 * (1.0 - best[n - 1]) < factor {
                count = n;
            }
        }
        count
    }
}

fn threshold(least: f64) -> impl Fn(&[f64]) -> usize {
    move |best: &[f64]| best.iter().filter(|p| **p > least).count()
}

/// The positions whose entropies before their own sum to no more than a bound. The confidence is the
/// negative entropy.
fn bound(bound: f64) -> impl Fn(&[f64]) -> usize {
    move |best: &[f64]| {
        let sums = (0..best.len()).map(|n| -best[..n].iter().sum::<f64>());
        sums.filter(|sum| *sum <= bound).count()
    }
}

#[test]
fn likely_tokens_are_unmasked_together() {
    let files = Files::new();
    let mut fewer = 0;
    for family in [MaskedFamily::Llada, MaskedFamily::Dream] {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        for flags in SCHEDULES {
            let plain = Plan::new(family, flags, 4).run(&mut libllama).len();
            for (rule, more) in [
                (
                    Parallel::Threshold(0.15),
                    &threshold(0.15) as &dyn Fn(&[f64]) -> usize,
                ),
                (Parallel::Threshold(1.0), &threshold(1.0)),
                (Parallel::Factor(2.0), &factor(2.0)),
                (Parallel::Factor(0.5), &factor(0.5)),
            ] {
                let mut plan = Plan::new(family, flags, 4);
                plan.more = more;
                let expected = plan.run(&mut libllama);
                let params = MaskedParams {
                    parallel: Some(rule),
                    ..greedy(schedule(flags), Algorithm::Confidence)
                };
                let (generation, canvases) = run(&model, &params, EndTokens::default());
                assert_eq!(canvases, expected, "{family:?}, {flags:?}, {rule:?}");
                assert_eq!(generation.steps, expected.len() as u64);
                assert!(
                    expected.len() <= plain,
                    "{rule:?}: {} of {plain}",
                    expected.len()
                );
                fewer += usize::from(expected.len() < plain);
            }
        }
    }
    assert!(fewer > 2, "{fewer}");
}

#[test]
fn an_entropy_bound_unmasks_what_it_allows() {
    let files = Files::new();
    let mut counts = std::collections::HashSet::new();
    for family in [MaskedFamily::Llada, MaskedFamily::Rnd1] {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        for flags in SCHEDULES {
            for nats in [1e-6, 4.0, 12.0, 1e6] {
                let more = bound(nats);
                let mut plan = Plan::new(family, flags, 1);
                plan.more = &more;
                let expected = plan.run(&mut libllama);
                let params = MaskedParams {
                    entropy_bound: nats as f32,
                    ..greedy(schedule(flags), Algorithm::EntropyBound)
                };
                let (_, canvases) = run(&model, &params, EndTokens::default());
                assert_eq!(canvases, expected, "{family:?}, {flags:?}, {nats}");
                counts.insert(canvases.len());
            }
        }
    }
    assert!(counts.len() > 3, "{counts:?}");
}

#[test]
fn an_answer_that_has_settled_ends() {
    let files = Files::new();
    let mut fewer = 0;
    for family in [MaskedFamily::Llada, MaskedFamily::Dream] {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        for flags in [SCHEDULES[0], SCHEDULES[2]] {
            let plain = Plan::new(family, flags, 4).run(&mut libllama);
            let last = plain.last().unwrap();
            for ends in [&[][..], &[last[1]], &[last[6], last[12]]] {
                for least in [0.02, 0.2] {
                    let mut plan = Plan::new(family, flags, 4);
                    plan.ends = ends;
                    let known = plan.run(&mut libllama).len();
                    plan.settled = Some(least);
                    let expected = plan.run(&mut libllama);
                    let params = MaskedParams {
                        early_stop: Some(least as f32),
                        ..greedy(schedule(flags), Algorithm::Confidence)
                    };
                    let end = EndTokens {
                        ids: ends.to_vec(),
                        pad: None,
                    };
                    let (generation, canvases) = run(&model, &params, end);
                    assert_eq!(
                        canvases, expected,
                        "{family:?}, {flags:?}, {ends:?}, {least}"
                    );
                    assert!(!generation.tokens.contains(&MASK));
                    assert!(expected.len() <= known);
                    fewer += usize::from(expected.len() < known);
                }
            }
        }
    }
    assert!(fewer > 3, "{fewer}");
}

#[test]
fn rules_out_of_range_are_named() {
    let plain = greedy(schedule(SCHEDULES[0]), Algorithm::EntropyBound);
    let problem = |params: MaskedParams| params.validate().unwrap_err().to_string();
    for bad in [0.0, -1.0, f32::NAN, 1.5] {
        let parallel = Some(Parallel::Threshold(bad));
        let message = problem(MaskedParams {
            parallel,
            ..plain.clone()
        });
        assert!(message.starts_with("Parallel::Threshold: is "), "{message}");
        let early_stop = Some(bad);
        let message = problem(MaskedParams {
            early_stop,
            ..plain.clone()
        });
        assert!(message.starts_with("early_stop: is "), "{message}");
    }
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let parallel = Some(Parallel::Factor(bad));
        let message = problem(MaskedParams {
            parallel,
            ..plain.clone()
        });
        assert!(message.starts_with("Parallel::Factor: is "), "{message}");
        let message = problem(MaskedParams {
            entropy_bound: bad,
            ..plain.clone()
        });
        assert!(message.starts_with("entropy_bound: is "), "{message}");
    }
}

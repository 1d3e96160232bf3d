//! Canvases of which something is known before the first step.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use llama_diffusion::diffusion::draw::DrawSampler;
use llama_diffusion::diffusion::{
    AcceptanceRule, Allowed, Denoiser, DrawRule, Draws, Filter, OwnedDraft, StepInput, Template,
    TokenSet,
};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::{MaskedModel, SequenceDenoiser};
use llama_diffusion::{
    AnswerLength, CancelFlag, DiffusionParams, EndTokens, Event, Generation, KvType, MaskedParams,
    Model, Session, SessionBatch, SessionParams, Token,
};
use llama_diffusion_testing::placements::on_cpu;
use llama_diffusion_testing::steps::prompt;

fn generated(geometry: &Geometry) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, geometry, types, 7).unwrap();
    Model::load(&path, &on_cpu(), &mut |_| ControlFlow::Continue(())).unwrap()
}

static TINY: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(generated(&Geometry::tiny())));
const CANVAS: usize = Geometry::tiny().canvas_length;

/// The model with our kernels, and with ggml's operations in their place.
fn models() -> [Arc<Model>; 2] {
    let operations = generated(&Geometry::tiny()).without_own_kernels();
    [Arc::clone(&TINY), Arc::new(operations)]
}

fn session(model: &Arc<Model>) -> Session {
    let params = SessionParams {
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    Session::new(model, EndTokens::default(), &params).unwrap()
}

fn params(templates: Vec<Template>) -> DiffusionParams {
    DiffusionParams {
        max_steps: 5,
        max_tokens: None,
        max_canvases: Some(2),
        seed: 11,
        confidence_threshold: 0.0,
        templates,
        ..DiffusionParams::default()
    }
}

/// The answer to a prompt, and its drafts.
fn answer(session: &mut Session, params: &DiffusionParams) -> (Generation, Vec<OwnedDraft>) {
    let mut drafts = Vec::new();
    let answer = session.generate(&prompt(9), params, &CancelFlag::default(), &mut |event| {
        if let Event::Draft(draft) = event {
            drafts.push(draft.into());
        }
        ControlFlow::Continue(())
    });
    (answer.unwrap().generation, drafts)
}

fn set(tokens: &[Token]) -> TokenSet {
    tokens.iter().copied().collect()
}

/// Fixed, free, fixed … : the fixed tokens are 100 and above.
fn every_other() -> Template {
    let mut template = Template::new();
    for position in 0..CANVAS / 2 {
        template.fixed(&[100 + position as Token]).free();
    }
    template
}

fn fixed_tokens(template: &Template) -> Vec<(usize, Token)> {
    use llama_diffusion::diffusion::Slot;
    let slots = template.slots().iter().enumerate();
    slots
        .filter_map(|(position, slot)| match slot {
            Slot::Fixed(token) => Some((position, *token)),
            _ => None,
        })
        .collect()
}

/// Asserts what holds for fixed positions in every step.
fn check_fixed(template: &Template, drafts: &[OwnedDraft]) {
    for draft in drafts {
        for (position, token) in fixed_tokens(template) {
            let at = format!("step {}, position {position}", draft.step);
            let shown = [&draft.argmax, &draft.sampled, &draft.canvas].map(|t| t[position]);
            assert_eq!(shown, [token; 3], "{at}");
            assert_eq!(draft.entropy[position], 0.0, "{at}");
            assert_eq!(draft.probability[position], 1.0, "{at}");
            assert!(draft.accepted[position], "{at}");
        }
        let free = (0..draft.entropy.len()).filter(|p| !template.is_fixed(*p));
        let free: Vec<f64> = free.map(|p| f64::from(draft.entropy[p])).collect();
        let mean = free.iter().sum::<f64>() / free.len() as f64;
        assert_eq!(draft.mean_entropy, mean as f32);
    }
}

#[test]
fn fixed_tokens_are_in_every_draft_and_out_of_means_and_acceptance() {
    for model in models() {
        for acceptance in [AcceptanceRule::Reference, AcceptanceRule::Bounded] {
            let template = every_other();
            let params = DiffusionParams {
                acceptance,
                ..params(vec![template.clone(), template.clone()])
            };
            let (generation, drafts) = answer(&mut session(&model), &params);
            assert_eq!(drafts.len(), 10);
            check_fixed(&template, &drafts);
            for canvas in &generation.canvases {
                for (position, token) in fixed_tokens(&template) {
                    assert_eq!(canvas.tokens[position], token);
                }
            }
        }
    }
}

#[test]
fn one_position_of_256_is_free() {
    let model = Arc::new(generated(&Geometry {
        canvas_length: 256,
        ..Geometry::tiny()
    }));
    for free in [0, 77, 255] {
        let mut template = Template::new();
        for position in 0..256 {
            match position == free {
                true => template.free(),
                false => template.fixed(&[(position % 300) as Token]),
            };
        }
        let params = DiffusionParams {
            max_canvases: Some(1),
            ..params(vec![template.clone()])
        };
        let (_, drafts) = answer(&mut session(&model), &params);
        assert_eq!(drafts.len(), 5);
        check_fixed(&template, &drafts);
    }
}

#[test]
fn a_canvas_without_free_positions_takes_no_step() {
    let mut template = Template::new();
    let tokens: Vec<Token> = (50..50 + CANVAS as Token).collect();
    template.fixed(&tokens);
    let params = DiffusionParams {
        max_canvases: Some(1),
        ..params(vec![template])
    };
    let (generation, drafts) = answer(&mut session(&TINY), &params);
    assert!(drafts.is_empty());
    assert_eq!(generation.canvases[0].tokens, tokens);
    assert_eq!((generation.steps, generation.tokens), (0, tokens));
}

#[test]
fn a_template_that_says_nothing_changes_nothing() {
    let mut template = Template::new();
    for _ in 0..CANVAS {
        template.free();
    }
    template.begin_with(vec![None; CANVAS]);
    for model in models() {
        let (plain, drafts) = answer(&mut session(&model), &params(vec![]));
        let templates = vec![template.clone(); 2];
        let (same, same_drafts) = answer(&mut session(&model), &params(templates));
        assert_eq!(same.canvases, plain.canvases);
        assert_eq!(same_drafts, drafts);
    }
}

/// Steps over one canvas, with the logits of each.
struct Steps {
    session: Session,
    canvas: Vec<Token>,
    step: usize,
}

impl Steps {
    fn new(model: &Arc<Model>) -> Self {
        let mut session = session(model);
        session.prefill(&prompt(9)).unwrap();
        session.denoiser().begin_canvas(CANVAS).unwrap();
        Self {
            session,
            canvas: prompt(CANVAS),
            step: 0,
        }
    }

    fn denoiser(&mut self) -> &mut SequenceDenoiser {
        self.session.canvas_denoiser().unwrap()
    }

    /// A step at 0.6; then the logits of all positions, and what the reference draws from them.
    fn step(
        &mut self,
        free: &[bool],
        allowed: Allowed<'_>,
        average: f32,
    ) -> (Draws, Vec<f32>, Draws) {
        let uniforms: Vec<f32> = (0..CANVAS)
            .map(|i| ((i * 7 + self.step * 3) % CANVAS) as f32 / CANVAS as f32 + 0.01)
            .collect();
        self.step += 1;
        let canvas = self.canvas.clone();
        let input = StepInput {
            canvas: &canvas,
            free,
            allowed,
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature: 0.6,
                uniforms: &uniforms,
            },
            guidance: 0.0,
            average,
            language: None,
            targets: &[],
        };
        let mut draws = Draws::new(CANVAS, -7);
        self.denoiser().step(&input, &mut draws).unwrap();
        let logits = self.denoiser().logits().unwrap();
        let mut row = Vec::new();
        self.denoiser().logits_row(3, &mut row).unwrap();
        let vocab = Geometry::tiny().vocab_size;
        assert_eq!(row, logits[3 * vocab..][..vocab]);
        assert!(self.denoiser().logits_row(CANVAS, &mut row).is_err());
        let mut expected = Draws::new(CANVAS, -7);
        let mut sampler = DrawSampler::default();
        let mut rows = logits.clone();
        let rows = rows.chunks_exact_mut(Geometry::tiny().vocab_size);
        for (position, row) in rows.enumerate().filter(|(p, _)| free[*p]) {
            expected.set(position, &sampler.draw(row, position, &input).unwrap());
        }
        (draws, logits, expected)
    }
}

/// The fifth positions are one of three tokens, the rest is free.
fn fifths() -> ([TokenSet; 2], Vec<Option<usize>>) {
    let sets = [set(&[3, 200, 77]), set(&[150])];
    let of = (0..CANVAS).map(|p| (p % 5 == 0).then_some(usize::from(p == 5)));
    (sets, of.collect())
}

#[test]
fn sets_are_drawn_from_as_the_reference_does() {
    for model in models() {
        let (sets, of) = fifths();
        let mut steps = Steps::new(&model);
        for _ in 0..3 {
            let allowed = Allowed::Sets {
                sets: &sets,
                of: &of,
            };
            let (draws, _, expected) = steps.step(&[true; CANVAS], allowed, 0.0);
            assert_eq!(draws.argmax, expected.argmax);
            assert_eq!(draws.sampled, expected.sampled);
            for (position, set) in of.iter().enumerate() {
                assert!((draws.entropy[position] - expected.entropy[position]).abs() < 1e-5);
                let probability = draws.probability[position] - expected.probability[position];
                assert!(probability.abs() < 1e-5);
                if let Some(set) = *set {
                    assert!(sets[set].contains(draws.sampled[position]));
                    assert!(sets[set].contains(draws.argmax[position]));
                }
            }
        }
    }
}

#[test]
fn all_but_one_token_may_be_drawn() {
    let mut steps = Steps::new(&TINY);
    let (plain, ..) = steps.step(&[true; CANVAS], Allowed::All, 0.0);
    let banned = plain.argmax[3];
    let mut steps = Steps::new(&TINY);
    let (draws, _, expected) = steps.step(&[true; CANVAS], Allowed::Except(banned), 0.0);
    assert_ne!(draws.argmax[3], banned);
    assert_eq!(draws.argmax, expected.argmax);
    assert_eq!(draws.sampled, expected.sampled);
}

#[test]
fn what_is_not_free_is_not_drawn_and_conditions_as_a_certain_token() {
    for model in models() {
        // The same certainty in two ways: a fixed token, and a set of one token.
        let mut free = [true; CANVAS];
        let token = prompt(CANVAS)[4];
        free[4] = false;
        let sets = [set(&[token])];
        let of: Vec<_> = (0..CANVAS).map(|p| (p == 4).then_some(0)).collect();
        let (mut fixed, mut single) = (Steps::new(&model), Steps::new(&model));
        let mut plain = Steps::new(&model);
        for step in 0..3 {
            let (draws, logits, expected) = fixed.step(&free, Allowed::All, 0.0);
            assert_eq!(draws.argmax[4], -7);
            assert_eq!(draws.sampled, expected.sampled);
            let allowed = Allowed::Sets {
                sets: &sets,
                of: &of,
            };
            let (_, same, _) = single.step(&[true; CANVAS], allowed, 0.0);
            assert_eq!(logits, same, "step {step}");
            // The first step has no self-conditioning.
            let (_, other, _) = plain.step(&[true; CANVAS], Allowed::All, 0.0);
            assert_eq!(logits == other, step == 0, "step {step}");
        }
    }
}

#[test]
fn averages_are_those_of_the_steps_so_far() {
    for model in models() {
        let share = 0.75;
        let mut steps = Steps::new(&model);
        let vocab = Geometry::tiny().vocab_size;
        let mut sums = vec![0.0_f64; CANVAS * vocab];
        let mut differs = false;
        for step in 0..12 {
            if step == 6 {
                // Averages begin again with each canvas.
                steps.denoiser().begin_canvas(CANVAS).unwrap();
                sums.fill(0.0);
            }
            steps.canvas.rotate_left(step);
            let (draws, logits, expected) = steps.step(&[true; CANVAS], Allowed::All, share as f32);
            assert_eq!(draws.sampled, expected.sampled, "step {step}");
            for (position, row) in logits.chunks_exact(vocab).enumerate() {
                let weights = row.iter().map(|x| (f64::from(*x) / 0.6).exp());
                let weights: Vec<f64> = weights.collect();
                let total: f64 = weights.iter().sum();
                let sums = &mut sums[position * vocab..][..vocab];
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = share * *sum + (1.0 - share) * weight / total;
                }
                let greatest = (0..vocab).max_by(|a, b| sums[*a].total_cmp(&sums[*b]));
                assert_eq!(draws.argmax[position], greatest.unwrap() as Token);
            }
            differs |= draws.argmax != expected.argmax;
        }
        assert!(differs, "no average differs from its last step");
    }
}

#[test]
fn averages_condition_the_next_step() {
    let mut steps = [0.0, 0.9].map(|share| (share, Steps::new(&TINY)));
    let mut logits = |_| {
        steps.each_mut().map(|(share, steps)| {
            steps.canvas.rotate_left(1);
            steps.step(&[true; CANVAS], Allowed::All, *share).1
        })
    };
    let [a, b] = [0, 1].map(&mut logits)[1].clone();
    // One step is its own average, up to rounding.
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4));
    let [a, b] = logits(2);
    assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[test]
fn an_initial_canvas_is_what_the_first_step_reads() {
    let initial: Vec<Option<Token>> = (0..CANVAS)
        .map(|p| (p % 3 == 0).then_some(200 + p as Token))
        .collect();
    let mut template = Template::new();
    template.begin_with(initial.clone());
    let begun = |templates| {
        let mut begun = Vec::new();
        let params = params(templates);
        let mut session = session(&TINY);
        let on_event = &mut |event: Event<'_>| {
            if let Event::CanvasBegun(canvas) = event {
                begun = canvas.tokens.to_vec();
            }
            ControlFlow::Break(())
        };
        session.prefill(&prompt(9)).unwrap();
        let generated = session.generate(&prompt(9), &params, &CancelFlag::default(), on_event);
        generated.unwrap();
        begun
    };
    let (noise, filled) = (begun(vec![]), begun(vec![template]));
    for position in 0..CANVAS {
        let expected = initial[position].unwrap_or(noise[position]);
        assert_eq!(filled[position], expected);
    }
}

#[test]
fn an_end_token_before_a_fixed_text_does_not_end_the_answer() {
    // Whatever the model writes in the gap ends an answer.
    let end = EndTokens {
        ids: (0..Geometry::tiny().vocab_size as Token).collect(),
        pad: Some(0),
    };
    let params = DiffusionParams {
        max_canvases: Some(1),
        ..params(vec![every_other()])
    };
    let settings = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    let text = EndTokens {
        ids: (0..Geometry::tiny().vocab_size as Token)
            .filter(|token| !(100..100 + CANVAS as Token).contains(token))
            .collect(),
        ..end
    };
    let mut session = Session::new(&*TINY, text, &settings).unwrap();
    let (generation, _) = answer(&mut session, &params);
    let canvas = &generation.canvases[0];
    for (position, token) in fixed_tokens(&every_other()) {
        assert_eq!(canvas.tokens[position], token);
        assert!(canvas.answer.contains(&token));
    }
}

#[test]
fn batch_mates_change_nothing() {
    let (sets, of) = fifths();
    let mut with_sets = Template::new();
    for set in &of {
        match set {
            Some(set) => with_sets.within(sets[*set].clone()),
            None => with_sets.free(),
        };
    }
    let all = [
        params(vec![every_other(), with_sets.clone()]),
        params(vec![]),
        params(vec![with_sets]),
    ];
    let alone: Vec<Generation> = all
        .iter()
        .map(|params| answer(&mut session(&TINY), params).0)
        .collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let sessions = (0..3).map(|_| session(&TINY)).collect();
        let mut batch = SessionBatch::new(sessions).unwrap();
        let ids = order.map(|index| {
            let join = batch.join(&prompt(9), &all[index], &CancelFlag::default());
            (join.unwrap(), index)
        });
        while !batch.is_empty() {
            for member in batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {
                let (_, index) = ids.iter().find(|(id, _)| *id == member.id).unwrap();
                let tokens = member.answer.unwrap().generation.tokens;
                assert_eq!(tokens, alone[*index].tokens, "{order:?}");
            }
        }
    }
}

#[test]
fn templates_that_cannot_work_are_refused_before_the_first_step() {
    let vocab = Geometry::tiny().vocab_size as Token;
    let mut long = Template::new();
    long.fixed(&[5; CANVAS + 1]);
    let mut unknown = Template::new();
    unknown.free().fixed(&[vocab]);
    let mut empty = Template::new();
    empty.within(TokenSet::default());
    for (template, expected) in [
        (long, "template: has 17 positions, but a canvas has 16"),
        (unknown, "template: position 1: 320 is not a token"),
        (empty, "template: position 0: the set is empty"),
    ] {
        let params = params(vec![Template::new(), template]);
        let begun = session(&TINY).begin(&prompt(9), &params).err().unwrap();
        assert!(begun.to_string().starts_with(expected), "{begun}");
    }
}

const MASK: Token = 4;

fn masked_answer(family: MaskedFamily, template: Template) -> llama_diffusion::Result<Vec<Token>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_masked(&path, family, 11, &|_| ()).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let model = Arc::new(MaskedModel::load(&path, &Default::default(), go_on).unwrap());
    let settings = SessionParams {
        context: Some(64),
        threads: Some(1),
        ..SessionParams::default()
    };
    let params = MaskedParams {
        length: AnswerLength::Tokens(12),
        seed: 3,
        template,
        ..MaskedParams::default()
    };
    let mut session = Session::new(&model, EndTokens::default(), &settings).unwrap();
    let on_event = &mut |event: Event<'_>| {
        if let Event::Draft(draft) = event {
            assert_eq!(draft.canvas[1], 250, "a fixed token was replaced");
        }
        ControlFlow::Continue(())
    };
    let prompt = [2, 270, 31, 280, 99];
    let answer = session.generate(&prompt, &params, &CancelFlag::default(), on_event)?;
    Ok(answer.generation.tokens)
}

#[test]
fn masked_models_fill_templates() {
    for family in [MaskedFamily::Dream, MaskedFamily::LladaMoe] {
        let mut template = Template::new();
        template
            .free()
            .fixed(&[250])
            .within(set(&[7, 8, MASK]))
            .free();
        let tokens = masked_answer(family, template).unwrap();
        assert_eq!(tokens.len(), 12);
        assert_eq!(tokens[1], 250);
        assert!([7, 8].contains(&tokens[2]), "{tokens:?}");
        assert!(!tokens.contains(&MASK));

        let mut template = Template::new();
        template.within(set(&[MASK]));
        let error = masked_answer(family, template).unwrap_err().to_string();
        assert!(error.contains("nothing but the mask token"), "{error}");
        let mut template = Template::new();
        template.fixed(&[250; 13]);
        let error = masked_answer(family, template).unwrap_err().to_string();
        assert!(error.contains("has 13 positions, but a canvas has 12"));
    }
}

//! The parameters that all generating endpoints share: limits, seeds, stop strings, drafts, and the
//! sampler parameters of the extension `diffusion`.

use std::time::Duration;

use llama_diffusion::diffusion::{AcceptanceRule, Algorithm, ConstrainAt};
use llama_diffusion::{Parameter, SamplerOverrides};

use super::error::ApiError;
use super::ranges;
use super::request::{
    Capabilities, DraftLevel, Drafts, Family, MaskedOverrides, Request, Sampler, TokenLimit,
};
use super::value::{Field, Object};

/// Stop strings of a request.
const MAX_STOP: usize = 64;

/// Why log-probabilities are refused.
const UNSCORED: &str = "what fills a gap has no log-probabilities: remove it";

/// Time between drafts, unless the request says more.
const INTERVAL_MS: usize = 33;

/// Sets what a body says about sampling.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn read(
    request: &mut Request,
    body: &Object<'_>,
    capabilities: &Capabilities,
) -> Result<(), ApiError> {
    request.choices = choices(body, capabilities)?;
    request.tokens = token_limit(body)?;
    request.time = match body.count("t_max_predict_ms", ranges::COUNT_FROM_0)? {
        // As in llama.cpp, 0 is no limit.
        None | Some(0) => None,
        Some(ms) => Some(milliseconds(ms)),
    };
    request.stop = stop(body)?;
    request.seed = seed(body)?;
    request.cache_prompt = body.boolean("cache_prompt")?.unwrap_or(true);
    request.slot = slot(body, capabilities)?;
    let diffusion = body.object("diffusion")?;
    if let Some(diffusion) = &diffusion {
        request.sampler = sampler(diffusion, capabilities.family)?;
        request.drafts = drafts(diffusion)?;
    }
    if let (Some(diffusion), Some(_)) = (&diffusion, request.sampler.min_logprob)
        && request.fills_gap()
    {
        return Err(diffusion.error("min_logprob", UNSCORED));
    }
    if capabilities.family == Family::Masked {
        request.sampler.masked = over(request.sampler.masked, body)?;
    }
    if body.flag("diffusing")? {
        let wanted = request.drafts.unwrap_or(Drafts {
            level: DraftLevel::Text,
            min_interval: milliseconds(INTERVAL_MS),
            every: 1,
        });
        // Only their texts are shown.
        request.drafts = Some(Drafts {
            level: DraftLevel::Text,
            ..wanted
        });
    }
    Ok(())
}

/// Checks that answers can have the log-probabilities that a request asks for in the field `name`.
///
/// # Errors
/// 400: they cannot.
pub fn check_logprobs(
    request: &Request,
    body: &Object<'_>,
    name: &str,
    capabilities: &Capabilities,
) -> Result<(), ApiError> {
    let problem = match request.logprobs {
        Some(_) if !capabilities.scores => "this model has no log-probabilities: remove it",
        Some(_) if request.fills_gap() => UNSCORED,
        _ => return Ok(()),
    };
    Err(body.error(name, problem))
}

fn milliseconds(count: usize) -> Duration {
    Duration::from_millis(count as u64)
}

fn choices(body: &Object<'_>, capabilities: &Capabilities) -> Result<usize, ApiError> {
    let mut chosen = None;
    for field in ["n", "n_cmpl"].iter().filter_map(|name| body.get(name)) {
        let count = field.count(ranges::COUNT)?;
        if count > capabilities.slots {
            return Err(field.error(format!(
                "is {count}, but the server computes at most {} together: ask for fewer answers, or start \
                 it with a larger --parallel",
                capabilities.slots
            )));
        }
        chosen.get_or_insert(count);
    }
    Ok(chosen.unwrap_or(1))
}

fn token_limit(body: &Object<'_>) -> Result<TokenLimit, ApiError> {
    let mut chosen = None;
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    for field in names.iter().filter_map(|name| body.get(name)) {
        chosen.get_or_insert(match field.integer(ranges::COUNT_OR_ANY)? {
            -1 => TokenLimit::Unlimited,
            count => TokenLimit::Tokens(count as usize),
        });
    }
    Ok(chosen.unwrap_or_default())
}

/// Stop strings: one, or a list.
///
/// # Errors
/// 400: they are something else, or too many.
fn stop(body: &Object<'_>) -> Result<Vec<String>, ApiError> {
    let Some(field) = body.get("stop") else {
        return Ok(Vec::new());
    };
    if let Some(one) = field.value.as_str() {
        return Ok(vec![one.to_owned()]);
    }
    if !field.value.is_array() {
        return Err(field.wrong("a string or a list of strings"));
    }
    texts(&field)
}

/// A list of stop strings.
///
/// # Errors
/// 400: it is something else, or has too many of them.
pub fn texts(field: &Field<'_>) -> Result<Vec<String>, ApiError> {
    let list = field.list()?;
    if list.len() > MAX_STOP {
        return Err(field.error(format!(
            "has {} strings: give at most {MAX_STOP}",
            list.len()
        )));
    }
    list.iter()
        .map(|item| item.string().map(str::to_owned))
        .collect()
}

fn seed(body: &Object<'_>) -> Result<Option<u64>, ApiError> {
    let Some(field) = body.get("seed") else {
        return Ok(None);
    };
    // Others below zero, which clients of OpenAI may send, are as good as any of 63 bits.
    let seed = Some(field.integer(ranges::SEED)?).filter(|seed| *seed != -1);
    Ok(seed.map(|seed| seed.cast_unsigned() & i64::MAX.cast_unsigned()))
}

/// As llama-server, any number names a slot: editors count their requests.
fn slot(body: &Object<'_>, capabilities: &Capabilities) -> Result<Option<usize>, ApiError> {
    let Some(field) = body.get("id_slot") else {
        return Ok(None);
    };
    let number = usize::try_from(field.integer(ranges::COUNT_OR_ANY)?);
    Ok(number.ok().map(|number| number % capabilities.slots.max(1)))
}

/// Fields of `diffusion`, for all families, for canvases, and for masked models.
pub const DIFFUSION: [&[&str]; 3] = [
    &["drafts", "min_interval_ms", "every"],
    &[
        "max_steps",
        "t_min",
        "t_max",
        "entropy_bound",
        "stability_threshold",
        "confidence_threshold",
        "max_canvases",
        "canvas_length",
        "acceptance",
        "constrain_at",
        "min_logprob",
    ],
    &[
        "steps",
        "eps",
        "block_length",
        "algorithm",
        "algorithm_temperature",
        "temperature",
        "top_k",
        "top_p",
        "guidance",
        "gumbel_noise",
    ],
];

fn sampler(diffusion: &Object<'_>, family: Family) -> Result<Sampler, ApiError> {
    let (other, problem) = match family {
        Family::Canvas => (
            DIFFUSION[2],
            "is for masked models, and this is a canvas model",
        ),
        Family::Masked => (
            DIFFUSION[1],
            "is for canvas models, and this is a masked model",
        ),
    };
    if let Some(field) = diffusion.any(other) {
        return Err(field.error(format!("{problem}: remove it")));
    }
    match family {
        Family::Canvas => canvas(diffusion),
        Family::Masked => Ok(Sampler {
            masked: masked(diffusion)?,
            ..Sampler::default()
        }),
    }
}

fn canvas(diffusion: &Object<'_>) -> Result<Sampler, ApiError> {
    let count = |name| diffusion.count(name, ranges::COUNT);
    let acceptance = [
        ("auto", AcceptanceRule::Auto),
        ("reference", AcceptanceRule::Reference),
        ("bounded", AcceptanceRule::Bounded),
    ];
    let constrain_at = [("step", ConstrainAt::Step), ("commit", ConstrainAt::Commit)];
    let sampler = Sampler {
        canvas: SamplerOverrides {
            max_steps: count("max_steps")?.map(|steps| steps as u32),
            t_min: diffusion.number("t_min", ranges::NOT_NEGATIVE)?,
            t_max: diffusion.number("t_max", ranges::DIVISOR)?,
            entropy_bound: diffusion.number("entropy_bound", ranges::POSITIVE)?,
            stability_threshold: diffusion
                .count("stability_threshold", ranges::COUNT_FROM_0)?
                .map(|steps| steps as u32),
            confidence_threshold: diffusion.number("confidence_threshold", ranges::NOT_NEGATIVE)?,
        },
        max_canvases: count("max_canvases")?,
        canvas_length: count("canvas_length")?,
        acceptance: diffusion.choice("acceptance", &acceptance)?,
        constrain_at: diffusion.choice("constrain_at", &constrain_at)?,
        min_logprob: diffusion.number("min_logprob", ranges::NOT_POSITIVE)?,
        masked: MaskedOverrides::default(),
    };
    match (sampler.canvas.t_min, sampler.canvas.t_max) {
        (Some(min), Some(max)) if max < min => {
            let problem = format!("is {max}, but must be at least t_min, which is {min}");
            Err(diffusion.error("t_max", problem))
        }
        _ => Ok(sampler),
    }
}

fn masked(diffusion: &Object<'_>) -> Result<MaskedOverrides, ApiError> {
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    let masked = MaskedOverrides {
        steps: diffusion
            .count("steps", ranges::COUNT)?
            .map(|steps| steps as u32),
        eps: diffusion.number("eps", ranges::POSITIVE_SHARE)?,
        block_length: diffusion.count("block_length", ranges::COUNT)?,
        algorithm: diffusion.choice("algorithm", &algorithms)?,
        algorithm_temperature: diffusion.number("algorithm_temperature", ranges::NOT_NEGATIVE)?,
        guidance: diffusion.number("guidance", ranges::NOT_NEGATIVE)?,
        gumbel_noise: diffusion.boolean("gumbel_noise")?,
        ..MaskedOverrides::default()
    };
    over(masked, diffusion)
}

/// The usual sampler parameters, which masked models have as well, where they are not set.
fn over(masked: MaskedOverrides, body: &Object<'_>) -> Result<MaskedOverrides, ApiError> {
    let top_k = body
        .get("top_k")
        .map(|field| field.integer(ranges::COUNT_OR_ANY));
    let temperature = body.number("temperature", ranges::NOT_NEGATIVE)?;
    let top_p = body.number("top_p", ranges::POSITIVE_SHARE)?;
    Ok(MaskedOverrides {
        temperature: masked.temperature.or(temperature),
        top_k: masked
            .top_k
            .or(top_k.transpose()?.map(|k| k.max(0) as usize)),
        top_p: masked.top_p.or(top_p),
        ..masked
    })
}

/// Which drafts an object asks for.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn drafts(diffusion: &Object<'_>) -> Result<Option<Drafts>, ApiError> {
    let levels = [
        ("off", None),
        ("text", Some(DraftLevel::Text)),
        ("tokens", Some(DraftLevel::Tokens)),
        ("full", Some(DraftLevel::Full)),
    ];
    let level = diffusion.choice("drafts", &levels)?.flatten();
    let interval = diffusion.count("min_interval_ms", ranges::INTERVAL)?;
    let every = diffusion.count("every", ranges::COUNT)?;
    Ok(level.map(|level| Drafts {
        level,
        min_interval: milliseconds(interval.unwrap_or(INTERVAL_MS)),
        every: every.unwrap_or(1) as u32,
    }))
}

/// The field of a request that sets a parameter of the library, if one does.
pub fn field_of(parameter: Parameter) -> Option<&'static str> {
    Some(match parameter {
        Parameter::MaxSteps => "diffusion.max_steps",
        Parameter::TMin => "diffusion.t_min",
        Parameter::TMax => "diffusion.t_max",
        Parameter::EntropyBound => "diffusion.entropy_bound",
        Parameter::ConfidenceThreshold => "diffusion.confidence_threshold",
        Parameter::MinLogprob => "diffusion.min_logprob",
        Parameter::TopTokens => "top_logprobs",
        Parameter::MaxCanvases => "diffusion.max_canvases",
        Parameter::Canvas => "diffusion.canvas_length",
        Parameter::Steps => "diffusion.steps",
        Parameter::Eps | Parameter::Schedule => "diffusion.eps",
        Parameter::BlockLength => "diffusion.block_length",
        Parameter::AlgorithmTemperature => "diffusion.algorithm_temperature",
        Parameter::Guidance => "diffusion.guidance",
        Parameter::Temperature => "temperature",
        Parameter::TopP => "top_p",
        Parameter::MaxTokens | Parameter::Length | Parameter::AnswerTokens => "max_tokens",
        Parameter::Constraint => "response_format",
        Parameter::Prompt => "prompt",
        Parameter::Template => "diffusion_seed_canvas",
        Parameter::Form => "form",
        Parameter::GapLength => "infill_tokens",
        Parameter::Protected => "protected",
        Parameter::Strength => "strength",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::Input;
    use super::*;
    use serde_json::{Value, json};

    fn parsed(body: Value, family: Family) -> Result<Request, ApiError> {
        let Value::Object(map) = &body else { panic!() };
        let mut request = Request::new(vec![Input::Prompt(Vec::new())]);
        let capabilities = Capabilities {
            family,
            slots: 4,
            vocabulary: 100,
            tools: true,
            scores: true,
            responses: None,
        };
        read(&mut request, &Object::root(map), &capabilities)?;
        Ok(request)
    }

    fn canvas(body: Value) -> Request {
        parsed(body, Family::Canvas).unwrap()
    }

    fn problem(body: Value) -> (String, String) {
        let error = parsed(body, Family::Canvas).unwrap_err();
        (error.param.unwrap(), error.message)
    }

    #[test]
    fn nothing_is_the_default() {
        let nothing = Request::new(vec![Input::Prompt(Vec::new())]);
        assert_eq!(canvas(json!({})), nothing);
        assert_eq!(
            canvas(json!({"seed": -1, "stop": null, "id_slot": -1, "diffusion": {}})),
            nothing
        );
    }

    #[test]
    fn any_whole_number_is_a_seed() {
        let greatest = i64::MAX.cast_unsigned();
        for (given, seed) in [
            (0, 0),
            (-2, greatest - 1),
            (-i64::MAX, 1),
            (i64::MAX, greatest),
        ] {
            assert_eq!(canvas(json!({"seed": given})).seed, Some(seed), "{given}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(
            canvas(json!({"max_tokens": 5})).tokens,
            TokenLimit::Tokens(5)
        );
        assert_eq!(
            canvas(json!({"n_predict": -1})).tokens,
            TokenLimit::Unlimited
        );
        let both = json!({"max_tokens": 5, "max_completion_tokens": 7});
        assert_eq!(canvas(both).tokens, TokenLimit::Tokens(7));
        let time = canvas(json!({"t_max_predict_ms": 250})).time;
        assert_eq!(time, Some(Duration::from_millis(250)));
        assert_eq!(problem(json!({"max_tokens": -2})).0, "max_tokens");
        assert_eq!(
            problem(json!({"max_tokens": 5, "n_predict": "x"})).0,
            "n_predict"
        );
        assert_eq!(problem(json!({"n_predict": i64::MIN})).0, "n_predict");
        assert_eq!(
            problem(json!({"t_max_predict_ms": -1})).0,
            "t_max_predict_ms"
        );
    }

    #[test]
    fn as_many_answers_as_slots() {
        assert_eq!(canvas(json!({"n": 4})).choices, 4);
        assert_eq!(canvas(json!({"n_cmpl": 2})).choices, 2);
        assert!(
            problem(json!({"n": 5}))
                .1
                .contains("the server computes at most 4 together")
        );
        assert_eq!(problem(json!({"n": 0})).0, "n");
    }

    #[test]
    fn any_number_names_a_slot() {
        for (number, slot) in [
            (-1, None),
            (0, Some(0)),
            (3, Some(3)),
            (4, Some(0)),
            (6, Some(2)),
        ] {
            assert_eq!(canvas(json!({"id_slot": number})).slot, slot);
        }
        assert_eq!(problem(json!({"id_slot": -2})).0, "id_slot");
    }

    #[test]
    fn stop_strings() {
        assert_eq!(canvas(json!({"stop": "a"})).stop, ["a"]);
        assert_eq!(canvas(json!({"stop": ["a", "b"]})).stop, ["a", "b"]);
        assert_eq!(problem(json!({"stop": ["a", 5]})).0, "stop[1]");
        assert_eq!(problem(json!({"stop": 5})).0, "stop");
        assert_eq!(problem(json!({"stop": vec!["x"; 65]})).0, "stop");
    }

    #[test]
    fn sampler_parameters_have_the_ranges_of_the_library() {
        let sampler =
            canvas(json!({"diffusion": {"max_steps": 7, "t_min": 0, "min_logprob": -1}})).sampler;
        assert_eq!(sampler.canvas.max_steps, Some(7));
        assert_eq!(
            (sampler.canvas.t_min, sampler.min_logprob),
            (Some(0.0), Some(-1.0))
        );
        for (name, value) in [
            ("max_steps", json!(0)),
            ("t_min", json!(-0.1)),
            ("t_max", json!(0)),
            ("entropy_bound", json!(0)),
            ("confidence_threshold", json!("NaN")),
            ("stability_threshold", json!(-1)),
            ("min_logprob", json!(0.1)),
            ("max_canvases", json!(0)),
            ("acceptance", json!("never")),
            ("drafts", json!(true)),
            ("every", json!(0)),
            ("min_interval_ms", json!(i64::MAX)),
        ] {
            let found = problem(json!({"diffusion": {name: value}}));
            assert_eq!(found.0, format!("diffusion.{name}"));
        }
        let (param, message) = problem(json!({"diffusion": {"t_min": 0.5, "t_max": 0.4}}));
        assert_eq!(param, "diffusion.t_max");
        assert!(message.ends_with("must be at least t_min, which is 0.5"));
        assert_eq!(problem(json!({"diffusion": 5})).0, "diffusion");
    }

    #[test]
    fn each_family_has_its_own_parameters() {
        assert_eq!(
            problem(json!({"diffusion": {"eps": 0.1}})).0,
            "diffusion.eps"
        );
        let body = json!({"temperature": 0.5, "top_k": -1, "diffusion": {"steps": 8, "algorithm": "margin"}});
        let masked = parsed(body, Family::Masked).unwrap().sampler.masked;
        assert_eq!(
            (masked.temperature, masked.top_k, masked.steps),
            (Some(0.5), Some(0), Some(8))
        );
        assert_eq!(masked.algorithm, Some(Algorithm::Margin));
        let error = parsed(json!({"diffusion": {"max_steps": 8}}), Family::Masked).unwrap_err();
        assert_eq!(error.param.unwrap(), "diffusion.max_steps");
    }

    #[test]
    fn drafts_are_opt_in() {
        assert_eq!(
            canvas(json!({"diffusion": {"drafts": "off", "every": 2}})).drafts,
            None
        );
        let drafts = canvas(json!({"diffusion": {"drafts": "tokens", "every": 2}}))
            .drafts
            .unwrap();
        assert_eq!((drafts.level, drafts.every), (DraftLevel::Tokens, 2));
        assert_eq!(drafts.min_interval, Duration::from_millis(33));
        let mercury = canvas(json!({"diffusing": true})).drafts.unwrap();
        assert_eq!(mercury.level, DraftLevel::Text);
    }
}

//! Prints the answer to a prompt, token by token. Arguments: model, seed, maximum number of tokens,
//! prompt.
//!
//! The programs of the same name in `ffi-tests/` must print the same.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use llama_diffusion::{
    CancelFlag, DiffusionParams, Model, ModelParams, SamplerOverrides, Session, SessionParams,
    Token,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().map(PathBuf::from).ok_or("no model")?;
    let numbers: Vec<u64> = args
        .map(|arg| Ok(arg.to_str().ok_or("not UTF-8")?.parse()?))
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let [seed, max_tokens, prompt @ ..] = numbers.as_slice() else {
        return Err("no seed, number of tokens and prompt".into());
    };
    let prompt = prompt.iter().map(|number| Token::try_from(*number));
    let prompt: Vec<Token> = prompt.collect::<Result<_, _>>()?;

    let placement = ModelParams::default();
    let model = Model::load(&path, &placement, &mut |_| ControlFlow::Continue(()))?;
    let model = Arc::new(model);
    let params = DiffusionParams {
        seed: *seed,
        max_tokens: Some(usize::try_from(*max_tokens)?),
        ..DiffusionParams::resolve(&SamplerOverrides::default(), &model.overrides())?
    };
    let session_params = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    let mut session = Session::new(&model, model.end_tokens()?, &session_params)?;
    let cancel = CancelFlag::default();
    let go_on = &mut |_: llama_diffusion::Event<'_>| ControlFlow::Continue(());
    for token in session
        .generate(&prompt, &params, &cancel, go_on)?
        .generation
        .tokens
    {
        println!("{token}");
    }
    Ok(())
}

//! Prints the drafts of an answer while it is generated, then the answer. Arguments: model,
//! question.

use std::ops::ControlFlow;

use llama_diffusion::{CancelFlag, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(question)) = (args.next(), args.next()) else {
        return Err("arguments: model, question".into());
    };
    let model = llama_diffusion::open(path)?;
    let vocab = model.vocab();
    let reply = model
        .chat()?
        .say(&question, &CancelFlag::default(), &mut |event| {
            if let Event::Draft(draft) = event {
                let text = vocab.detokenize(draft.argmax, false).unwrap_or_default();
                eprintln!("step {}: {text}", draft.step + 1);
            }
            ControlFlow::Continue(())
        })?;
    println!("{}", reply.text.text);
    Ok(())
}

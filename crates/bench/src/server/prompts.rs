//! What the server is asked.

use llama_diffusion::{Error, Result};

use super::args::ServerArgs;

/// Short and long answers; the demo model knows them.
const QUESTIONS: [&str; 8] = [
    "What is the capital of Norway?",
    "Tell a story about Grace and a white owl.",
    "Count backwards from 16 to 8.",
    "Anna from Lima is 42 years old. Write that as JSON.",
    "Write a Python function that returns the larger of a and b.",
    "Name the next three months after May.",
    "Put in order, smallest first: 37, 24, 34",
    "What do you know about Nepal?",
];

/// The questions of the requests, in turn.
///
/// # Errors
/// The file cannot be read, or has none.
pub fn read(args: &ServerArgs) -> Result<Vec<String>> {
    let Some(path) = &args.prompts else {
        return Ok(QUESTIONS.map(str::to_owned).to_vec());
    };
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let questions: Vec<String> = lines.map(str::to_owned).collect();
    match questions.is_empty() {
        true => Err(Error::File {
            path: path.clone(),
            problem: "has no questions: write one a line".into(),
        }),
        false => Ok(questions),
    }
}

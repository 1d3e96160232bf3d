//! `llama-diffusion-server`: text diffusion models behind OpenAI-compatible HTTP.

fn main() {}

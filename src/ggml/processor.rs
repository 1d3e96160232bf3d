//! Whether this processor has the instructions that the CPU backend was compiled for. Without this
//! check, a program built on one machine would end with an illegal instruction on an older one.

use crate::error::{Error, Result};

/// Rejects a processor that lacks instructions. Must be called before anything that runs code of
/// ggml's CPU backend, which libllama does as soon as it lists devices.
///
/// # Errors
/// The processor lacks some of them.
pub(crate) fn check() -> Result<()> {
    // Written by build.rs from the compiler's output.
    compare(include!(concat!(env!("OUT_DIR"), "/cpu_features.rs")))
}

/// `needed` are instruction sets, each with whether the processor has it.
fn compare(needed: &[(&str, bool)]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter_map(|(name, there)| (!there).then_some(*name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "this build is for processors with {}, which this one lacks: build it on this machine, or with the \
         features `portable,dynamic-backends` for all machines",
        missing.join(", ")
    );
    Err(Error::device("CPU", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_instruction_sets_are_named() {
        assert!(compare(&[]).is_ok());
        assert!(compare(&[("avx", true), ("f16c", true)]).is_ok());
        let error = compare(&[("avx", true), ("avx2", false), ("fma", false)]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("with avx2, fma, which"), "{message}");
    }

    #[test]
    fn the_machine_that_built_a_native_build_can_run_it() {
        check().unwrap();
    }
}

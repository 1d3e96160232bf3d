//! Checks whether the host has memory for what ggml and libllama allocate without checking the
//! result.

use crate::error::{Error, Result};

/// A reserve beyond the requested bytes: if small allocations of ggml or ours fail, the process
/// ends.
const RESERVE: usize = 8 << 20;

/// Rejects a request that exceeds the available memory. Nothing is kept or touched: this finds
/// limits of address space and strict overcommit, as a failing `malloc` would.
///
/// # Errors
/// `bytes` for `what`, and a reserve, cannot be allocated.
pub(crate) fn check(what: &str, bytes: usize) -> Result<()> {
    let asked = bytes.saturating_add(RESERVE);
    if Vec::<u8>::new().try_reserve_exact(asked).is_ok() {
        return Ok(());
    }
    Err(Error::OutOfMemory {
        what: what.into(),
        device: "the host".into(),
        bytes: asked,
        advice: "free some memory, or raise the limit of this process".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(check("a little", 1 << 20).is_ok());
        let error = check("everything", usize::MAX).unwrap_err().to_string();
        assert!(error.contains("everything needs"), "{error}");
        assert!(check("half of everything", isize::MAX as usize).is_err());
    }
}

//! What a file of a masked family must contain.

use super::super::file::ModelFile;
use super::super::keys::{self, MASKED_ARCHITECTURES};
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::keys::GENERAL_ARCHITECTURE;

/// The limits of libllama.
const MAX_EXPERTS: u32 = 512;

/// Whether a file is of a masked family, by its architecture.
///
/// # Errors
/// The file names no architecture.
pub fn is_masked(file: &ModelFile) -> Result<bool> {
    let architecture: &str = file.metadata().require(GENERAL_ARCHITECTURE)?;
    Ok(MASKED_ARCHITECTURES.contains(&architecture))
}

/// Checks what would make libllama stop the process, and returns the number of layers and the
/// length of the context.
pub(super) fn check_extents(gguf: &Gguf) -> Result<(usize, usize)> {
    let architecture: &str = gguf.require(GENERAL_ARCHITECTURE)?;
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    let number = |suffix: &str| gguf.require::<u32>(&key(suffix));
    let refuse = |suffix: &str, problem: String| Err(gguf.metadata_error(&key(suffix), problem));
    let layers = number(keys::BLOCK_COUNT)?;
    if !(1..=512).contains(&layers) {
        return refuse(keys::BLOCK_COUNT, format!("is {layers}, expected 1 to 512"));
    }
    let (width, heads) = (number(keys::EMBEDDING_LENGTH)?, number(keys::HEAD_COUNT)?);
    if heads == 0 || width == 0 {
        return refuse(
            keys::HEAD_COUNT,
            format!("is {heads} for a width of {width}"),
        );
    }
    let kv_heads = gguf.get(&key(keys::HEAD_COUNT_KV))?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        let problem = format!("is {kv_heads}, which does not divide the {heads} heads of Q");
        return refuse(keys::HEAD_COUNT_KV, problem);
    }
    let head_dim: u32 = gguf.get(&key(keys::KEY_LENGTH))?.unwrap_or(width / heads);
    for suffix in [keys::VALUE_LENGTH, keys::ROPE_DIMENSION_COUNT] {
        let value: u32 = gguf.get(&key(suffix))?.unwrap_or(head_dim);
        let implied = suffix == keys::VALUE_LENGTH && gguf.value(&key(suffix)).is_none();
        let expected = if implied { value } else { head_dim };
        if value != expected || value == 0 {
            return refuse(
                suffix,
                format!("is {value}, but keys of a head have {head_dim}"),
            );
        }
    }
    let experts: u32 = gguf.get(&key(keys::EXPERT_COUNT))?.unwrap_or(0);
    let used: u32 = gguf.get(&key(keys::EXPERT_USED_COUNT))?.unwrap_or(0);
    let has_experts = matches!(architecture, "llada-moe" | "rnd1");
    if has_experts != (experts > 0) || experts > MAX_EXPERTS {
        let problem = match has_experts {
            true => format!("is {experts}, expected 1 to {MAX_EXPERTS}"),
            false => format!("is {experts}, but a '{architecture}' model has no experts"),
        };
        return refuse(keys::EXPERT_COUNT, problem);
    }
    if used > experts || (used == 0) != (experts == 0) {
        let problem = format!("is {used}, but there are {experts} experts");
        return refuse(keys::EXPERT_USED_COUNT, problem);
    }
    Ok((layers as usize, number(keys::CONTEXT_LENGTH)? as usize))
}

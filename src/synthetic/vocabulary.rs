//! The vocabulary of generated models: Gemma 4's special tokens, bytes, a few words.

use crate::gguf::keys;
use crate::gguf::writer::{Encoded, GgufWriter};

/// The first tokens, all special.
const SPECIAL_TOKENS: [&str; 11] = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|tool_response>",
];
/// Then a token for each byte, then these, and after them tokens that no text produces.
const TEXT_TOKENS: [&str; 16] = [
    "\n", "▁", "a", "e", "h", "i", "n", "o", "r", "s", "t", "th", "the", "▁the", "in", "▁in",
];
const MERGES: [&str; 5] = ["t h", "th e", "▁ the", "i n", "▁ in"];

/// Tokens that every generated vocabulary has.
pub const fn min_vocab_size() -> usize {
    SPECIAL_TOKENS.len() + 256 + TEXT_TOKENS.len()
}

pub(super) fn special_id(token: &str) -> u32 {
    SPECIAL_TOKENS
        .iter()
        .position(|&special| special == token)
        .unwrap_or_default() as u32
}

/// Turns as in Gemma 4.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' + message.content + '<turn|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}";

pub(super) fn set_tokenizer(writer: &mut GgufWriter, vocab_size: usize) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    let special = SPECIAL_TOKENS.map(|token| (token.to_owned(), CONTROL));
    let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), BYTE));
    let text = TEXT_TOKENS.map(|token| (token.to_owned(), NORMAL));
    let others = (min_vocab_size()..vocab_size).map(|id| (format!("▁token{id}"), NORMAL));
    let (tokens, types): (Vec<_>, Vec<_>) = special
        .into_iter()
        .chain(bytes)
        .chain(text)
        .chain(others)
        .unzip();
    let scores: Encoded = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let mut set = |key: &str, value: Encoded| {
        writer.set(key, value);
    };
    set(keys::TOKENIZER, "gemma4".into());
    set(keys::TOKENS, tokens.iter().map(String::as_str).collect());
    set(keys::SCORES, scores);
    set(keys::TOKEN_TYPE, types.into_iter().collect());
    set(keys::MERGES, MERGES.into_iter().collect());
    for (name, token) in [
        ("bos", "<bos>"),
        ("eos", "<eos>"),
        ("unknown", "<unk>"),
        ("padding", "<pad>"),
        ("mask", "<mask>"),
    ] {
        set(&keys::token_id(name), special_id(token).into());
    }
    set(keys::ADD_BOS, true.into());
    set(keys::ADD_SPACE_PREFIX, false.into());
    set(keys::CHAT_TEMPLATE, CHAT_TEMPLATE.into());
}

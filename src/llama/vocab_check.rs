//! Checks a vocabulary before libllama loads it.
//!
//! libllama asserts, and so stops the process, on some vocabularies (a token listed twice, a
//! missing begin-of-sequence token), and its exceptions must not cross into Rust later, while a
//! text is tokenized. A vocabulary that passes can be loaded and used; errors name what is wrong.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::Result;
use crate::gguf::keys::{
    self, ADD_EOS, MERGES, SCORES, SUPPRESS_TOKENS, TOKEN_TYPE, TOKENIZER, TOKENS,
};
use crate::gguf::{Array, Gguf, Value, ValueType};

/// Special tokens whose ids may be set.
const SPECIAL_TOKENS: [&str; 17] = [
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "seperator",
    "padding",
    "mask",
    "fim_pre",
    "fim_suf",
    "fim_mid",
    "fim_pad",
    "fim_rep",
    "fim_sep",
    "prefix",
    "suffix",
    "middle",
];

/// Other keys that libllama reads; it throws if the type is wrong.
const TYPED: [(&str, ValueType); 9] = [
    (keys::NAME, ValueType::Str),
    (keys::PRE_TOKENIZER, ValueType::Str),
    (keys::TOKEN_TYPE_COUNT, ValueType::U32),
    (keys::ADD_BOS, ValueType::Bool),
    (ADD_EOS, ValueType::Bool),
    (keys::ADD_SEP, ValueType::Bool),
    (keys::ADD_SPACE_PREFIX, ValueType::Bool),
    (keys::REMOVE_EXTRA_WHITESPACES, ValueType::Bool),
    (keys::CHAT_TEMPLATE, ValueType::Str),
];

/// The token type of libllama whose tokens stand for a byte.
const BYTE: i32 = 6;
/// A byte-level vocabulary has a token for each byte, and libllama uses 11 as the default of its
/// special tokens.
const BYTE_LEVEL_MIN_TOKENS: usize = 256;

/// Checks that libllama can load the vocabulary of this file, and tokenize with it, without
/// stopping the process.
///
/// # Errors
/// A key of the tokenizer is missing, has a wrong type, or its value contradicts the others.
pub fn check_tokenizer(gguf: &Gguf) -> Result<()> {
    let model: &str = gguf.require(TOKENIZER)?;
    let gemma4 = model == "gemma4";
    if !gemma4 && model != "gpt2" {
        let problem = format!(
            "'{model}' is not supported: only 'gemma4' and 'gpt2' (byte-pair encodings) are"
        );
        return Err(gguf.metadata_error(TOKENIZER, problem));
    }
    for (key, ty) in TYPED {
        if let Some(value) = gguf.value(key).filter(|value| value.value_type() != ty) {
            return Err(gguf.metadata_error(key, format!("is {value}, expected a {ty}")));
        }
    }
    let tokens = require_strings(gguf, TOKENS)?;
    let min_tokens = if gemma4 { 1 } else { BYTE_LEVEL_MIN_TOKENS };
    if tokens.len() < min_tokens || tokens.len() > i32::MAX as usize {
        let problem = format!(
            "has {} tokens, expected {min_tokens} to {}",
            tokens.len(),
            i32::MAX
        );
        return Err(gguf.metadata_error(TOKENS, problem));
    }
    check_unique(gguf, tokens)?;
    check_per_token(gguf, tokens)?;
    check_merges(gguf)?;
    for name in SPECIAL_TOKENS {
        check_special(gguf, name, tokens.len())?;
    }
    // Vocabularies of Gemma always begin a text with this token, and only libllama's other ones
    // have a default.
    if gemma4 {
        require_special(gguf, "bos", "texts begin with it")?;
        if gguf.get(ADD_EOS)? == Some(true) {
            require_special(gguf, "eos", &format!("'{ADD_EOS}' is true"))?;
        }
    }
    array(gguf, SUPPRESS_TOKENS, &[ValueType::I32]).map(|_| ())
}

/// An array whose elements have one of these types.
fn array<'a>(gguf: &'a Gguf, key: &str, types: &[ValueType]) -> Result<Option<Array<'a>>> {
    match gguf.get::<Array<'_>>(key)? {
        Some(array) if !types.contains(&array.element_type()) => {
            let expected: Vec<_> = types.iter().map(ToString::to_string).collect();
            let problem = format!(
                "is {}, expected elements of {}",
                Value::Array(array),
                expected.join(" or ")
            );
            Err(gguf.metadata_error(key, problem))
        }
        array => Ok(array),
    }
}

fn require_strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Array<'a>> {
    array(gguf, key, &[ValueType::Str])?
        .ok_or_else(|| gguf.metadata_error(key, "is missing, expected an array of strings"))
}

/// What libllama keeps of a string: it ends at the first zero byte.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn check_unique(gguf: &Gguf, tokens: Array<'_>) -> Result<()> {
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.strings().map(c_string).enumerate() {
        // The name that libllama gives to empty tokens.
        let text: Cow<'_, [u8]> = if token.is_empty() {
            format!("[EMPTY_{id}]").into_bytes().into()
        } else {
            token.into()
        };
        if let Some(text) = seen.replace(text) {
            let problem = format!(
                "token {id} is \"{}\" like an earlier one",
                text.escape_ascii()
            );
            return Err(gguf.metadata_error(TOKENS, problem));
        }
    }
    Ok(())
}

/// Scores and types, one for each token.
fn check_per_token(gguf: &Gguf, tokens: Array<'_>) -> Result<()> {
    let per_token = |key, types: &[ValueType]| match array(gguf, key, types)? {
        Some(values) if values.len() != tokens.len() => {
            let problem = format!("has {} elements for {} tokens", values.len(), tokens.len());
            Err(gguf.metadata_error(key, problem))
        }
        values => Ok(values),
    };
    per_token(SCORES, &[ValueType::F32, ValueType::I32])?;
    let Some(types) = per_token(TOKEN_TYPE, &[ValueType::I32])? else {
        return Ok(());
    };
    for (id, (ty, token)) in types.values().zip(tokens.strings()).enumerate() {
        if ty == Value::I32(BYTE) && !is_byte_token(c_string(token)) {
            let text = token.escape_ascii();
            let problem = format!(
                "token {id} (\"{text}\") has the type of bytes, but is none like \"<0x0A>\""
            );
            return Err(gguf.metadata_error(TOKEN_TYPE, problem));
        }
    }
    Ok(())
}

fn is_byte_token(token: &[u8]) -> bool {
    let digits = token
        .strip_prefix(b"<0x")
        .and_then(|rest| rest.strip_suffix(b">"));
    digits.is_some_and(|digits| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Each merge is two symbols with a space between them; the first symbol may itself be a space.
fn check_merges(gguf: &Gguf) -> Result<()> {
    let merges = require_strings(gguf, MERGES)?;
    let is_pair = |merge: &[u8]| {
        merge
            .iter()
            .skip(1)
            .position(|&byte| byte == b' ')
            .is_some_and(|at| at + 2 < merge.len())
    };
    match merges
        .strings()
        .map(c_string)
        .enumerate()
        .find(|(_, merge)| !is_pair(merge))
    {
        Some((index, merge)) => {
            let problem = format!(
                "merge {index} is \"{}\", expected two symbols with a space between",
                merge.escape_ascii()
            );
            Err(gguf.metadata_error(MERGES, problem))
        }
        None => Ok(()),
    }
}

fn check_special(gguf: &Gguf, name: &str, n_tokens: usize) -> Result<()> {
    let key = keys::token_id(name);
    let problem = match gguf.value(&key) {
        Some(Value::U32(id)) if id as usize >= n_tokens => {
            format!("is {id}, but the vocabulary has {n_tokens} tokens")
        }
        None | Some(Value::U32(_)) => return Ok(()),
        Some(value) => format!("is {value}, expected a u32"),
    };
    Err(gguf.metadata_error(&key, problem))
}

fn require_special(gguf: &Gguf, name: &str, why: &str) -> Result<()> {
    let key = keys::token_id(name);
    match gguf.value(&key) {
        Some(_) => Ok(()),
        None => Err(gguf.metadata_error(&key, format!("is missing: {why}"))),
    }
}

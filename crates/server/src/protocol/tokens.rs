//! Requests that generate nothing: tokens of texts, texts of tokens, prompts of conversations.

use llama_diffusion::Token;
use serde_json::{Map, Value, json};

use super::chat::conversation;
use super::error::ApiError;
use super::prompt::{pieces, token};
use super::request::{Capabilities, Chat, Piece};
use super::tools;
use super::value::Object;

/// A request to `/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenize {
    /// The text, or a mixture of texts and tokens.
    pub content: Vec<Piece>,
    /// Whether the token that begins a sequence comes first.
    pub add_special: bool,
    /// Whether special tokens that are written out are parsed.
    pub parse_special: bool,
    /// Whether the answer has the bytes of the tokens.
    pub with_pieces: bool,
}

impl Tokenize {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 with the field that is wrong.
    pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Self, ApiError> {
        let body = Object::root(body);
        let content = match body.get("content") {
            Some(content) if content.value.as_array().is_none_or(|list| !list.is_empty()) => {
                pieces(&content, capabilities.vocabulary)?
            }
            // As in llama-server: nothing has no tokens.
            _ => Vec::new(),
        };
        Ok(Self {
            content,
            add_special: body.flag("add_special")?,
            parse_special: body.boolean("parse_special")?.unwrap_or(true),
            with_pieces: body.flag("with_pieces")?,
        })
    }

    /// Writes the answer. Bytes that are not UTF-8 are a list.
    pub fn answer(&self, tokens: &[(Token, Vec<u8>)]) -> Value {
        let entry = |(id, bytes): &(Token, Vec<u8>)| match self.with_pieces {
            true => {
                let piece = match std::str::from_utf8(bytes) {
                    Ok(text) => json!(text),
                    Err(_) => json!(bytes),
                };
                json!({"id": id, "piece": piece})
            }
            false => json!(id),
        };
        json!({"tokens": tokens.iter().map(entry).collect::<Vec<_>>()})
    }
}

/// Reads a body of `/detokenize`.
///
/// # Errors
/// 400 with the element that is wrong.
pub fn detokenize(
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Vec<Token>, ApiError> {
    let list = Object::root(body).list("tokens")?;
    list.iter()
        .map(|element| token(element, capabilities.vocabulary))
        .collect()
}

/// Reads a body of `/apply-template`: the conversation, whether the model thinks if the body says so,
/// and whether the prompt ends with the opening of the assistant's turn.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn apply_template(
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<(Chat, Option<bool>, bool), ApiError> {
    let mut body = body.clone();
    // A prompt without an answer may end anywhere.
    let opens = match body.remove("add_generation_prompt") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(opens)) => opens,
        Some(_) => {
            return Err(ApiError::field(
                "add_generation_prompt",
                "must be a boolean",
            ));
        }
    };
    if !opens {
        body.insert("continue_final_message".into(), false.into());
    }
    let body = Object::root(&body);
    let tools = tools::read(&body, capabilities)?;
    let (chat, thoughts) = conversation(&body, &tools)?;
    Ok((chat, thoughts, opens))
}

/// The number of tokens of a request, as OpenAI's endpoints `…/input_tokens` have it.
pub fn input_tokens(count: usize) -> Value {
    json!({"object": "response.input_tokens", "input_tokens": count})
}

#[cfg(test)]
mod tests {
    use super::super::tests::capabilities;
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn texts_and_mixtures_have_tokens() {
        let read = |body| Tokenize::read(&map(body), &capabilities());
        let default = read(json!({"content": "a"})).unwrap();
        assert_eq!((default.add_special, default.parse_special), (false, true));
        assert_eq!(default.content, [Piece::Text("a".into())]);
        assert_eq!(read(json!({"content": ["a", 5]})).unwrap().content.len(), 2);
        assert_eq!(read(json!({})).unwrap().content, []);
        assert_eq!(
            read(json!({"content": 5})).unwrap_err().param.as_deref(),
            Some("content")
        );
        assert_eq!(
            read(json!({"content": "a", "add_special": 1}))
                .unwrap_err()
                .param
                .as_deref(),
            Some("add_special")
        );
    }

    #[test]
    fn pieces_that_are_not_text_are_bytes() {
        let body = map(json!({"content": "a", "with_pieces": true}));
        let tokenize = Tokenize::read(&body, &capabilities()).unwrap();
        let tokens = [(5, b"a".to_vec()), (6, vec![0xc3])];
        assert_eq!(
            tokenize.answer(&tokens),
            json!({"tokens": [{"id": 5, "piece": "a"}, {"id": 6, "piece": [0xc3]}]})
        );
    }

    #[test]
    fn tokens_are_in_the_vocabulary() {
        let read = |body| detokenize(&map(body), &capabilities());
        assert_eq!(read(json!({"tokens": [1, 2]})), Ok(vec![1, 2]));
        assert_eq!(read(json!({})), Ok(vec![]));
        assert_eq!(
            read(json!({"tokens": [1, 1000]}))
                .unwrap_err()
                .param
                .as_deref(),
            Some("tokens[1]")
        );
    }

    #[test]
    fn a_prompt_may_end_without_an_opening() {
        let messages =
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]);
        let (chat, _, opens) =
            apply_template(&map(json!({"messages": messages})), &capabilities()).unwrap();
        assert_eq!((chat.prefix.as_str(), opens), ("Yes", true));
        let body = map(json!({"messages": messages, "add_generation_prompt": false}));
        let (chat, _, opens) = apply_template(&body, &capabilities()).unwrap();
        assert_eq!((chat.messages.len(), opens), (2, false));
        let body = map(json!({"messages": messages, "add_generation_prompt": "no"}));
        let error = apply_template(&body, &capabilities()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("add_generation_prompt"));
    }
}

//! The messages of a conversation.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// Instructions of the application; templates usually treat it as [`System`](Self::System).
    Developer,
    /// The user.
    User,
    /// The model.
    #[serde(alias = "model")]
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message of a conversation, as in the JSON of OpenAI-compatible APIs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text. JSON may also have a list of `{"type": "text", "text": …}`, whose texts are joined
    /// because not every template accepts a list, or null, which is the empty text.
    #[serde(default, deserialize_with = "text_content")]
    pub content: String,
    /// Everything else that a template may read: `name`, `tool_calls`, `reasoning_content` ….
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message that has only text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            extra: serde_json::Map::new(),
        }
    }
}

fn text_content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "lowercase")]
    enum ContentPart {
        Text { text: String },
    }

    struct Content;

    impl<'de> Visitor<'de> for Content {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string, a list of text parts, or null")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_unit<E: de::Error>(self) -> Result<String, E> {
            Ok(String::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
            let mut joined = String::new();
            while let Some(ContentPart::Text { text }) = parts.next_element()? {
                joined.push_str(&text);
            }
            Ok(joined)
        }
    }

    deserializer.deserialize_any(Content)
}

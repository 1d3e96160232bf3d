//! What a canvas starts with before its text, and what tokens mean besides their bytes.

use std::collections::BTreeMap;

use super::error::{ConstraintError, Result};
use super::vocabulary::Vocabulary;
use crate::token::Token;

/// What a canvas starts with before the text of the language.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scaffold {
    /// Nothing.
    #[default]
    None,
    /// These tokens, such as an empty thought.
    Fixed(Vec<Token>),
    /// These tokens, or nothing.
    Optional(Vec<Token>),
    /// Any tokens, except for end tokens, up to and including the first of this one.
    Until(Token),
    /// Nothing, or `open` and any tokens, except for end tokens, up to and including the first `close`.
    Between {
        /// Begins what comes before the text.
        open: Token,
        /// Ends it.
        close: Token,
    },
}

impl Scaffold {
    /// Whether the text may begin at once, although something may come before it.
    pub(super) fn is_optional(&self) -> bool {
        match self {
            Self::Optional(tokens) => !tokens.is_empty(),
            Self::Between { .. } => true,
            Self::None | Self::Fixed(_) | Self::Until(_) => false,
        }
    }

    /// Number of states before the text.
    pub(super) fn states(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Fixed(tokens) | Self::Optional(tokens) => tokens.len(),
            Self::Until(_) => 1,
            Self::Between { .. } => 2,
        }
    }
}

/// What a token means besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Role {
    /// Its places in a fixed scaffold.
    pub places: Vec<u32>,
    /// It ends the scaffold.
    pub closes: bool,
    /// It ends the answer.
    pub ends: bool,
}

const CLOSES: &str = "the text begins after it";

/// The tokens with roles.
pub(super) fn roles(
    vocabulary: &Vocabulary,
    scaffold: &Scaffold,
    end: &[Token],
) -> Result<BTreeMap<Token, Role>> {
    let mut roles: BTreeMap<Token, Role> = BTreeMap::new();
    let check = |token: Token, purpose| {
        let known = usize::try_from(token).is_ok_and(|t| t < vocabulary.size());
        known.then_some(token).ok_or(ConstraintError::Token {
            token,
            purpose,
            vocabulary: vocabulary.size(),
        })
    };
    for &token in end {
        let token = check(token, "it ends an answer")?;
        roles.entry(token).or_default().ends = true;
    }
    match scaffold {
        Scaffold::None => {}
        Scaffold::Fixed(tokens) | Scaffold::Optional(tokens) => {
            for (place, &token) in tokens.iter().enumerate() {
                let token = check(token, "it comes before the text")?;
                roles.entry(token).or_default().places.push(place as u32);
            }
        }
        Scaffold::Until(close) => {
            let token = check(*close, CLOSES)?;
            roles.entry(token).or_default().closes = true;
        }
        Scaffold::Between { open, close } => {
            let token = check(*open, "it comes before the text")?;
            roles.entry(token).or_default().places.push(0);
            let token = check(*close, CLOSES)?;
            roles.entry(token).or_default().closes = true;
        }
    }
    Ok(roles)
}

//! Why a constraint cannot be honoured, and how large one may be.

/// Shorthand for results of this module.
pub type Result<T, E = ConstraintError> = std::result::Result<T, E>;

/// A constraint that cannot be honoured. The message says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// A keyword of a JSON Schema whose meaning cannot be kept.
    #[error("the schema at '{pointer}': the keyword '{keyword}' {problem}")]
    Keyword {
        /// The keyword, as written in the schema.
        keyword: String,
        /// JSON pointer to the schema that holds the keyword; `#` is the whole schema.
        pointer: String,
        /// Why it cannot be kept, and what can be written instead.
        problem: String,
    },
    /// A JSON Schema that is malformed or that contradicts itself.
    #[error("the schema at '{pointer}': {problem}")]
    Schema {
        /// JSON pointer to the culprit; `#` is the whole schema.
        pointer: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A regular expression that cannot be used.
    #[error("the regular expression '{pattern}' {problem}")]
    Pattern {
        /// The expression, shortened if it is long.
        pattern: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A constraint that would need too much memory or time.
    #[error(
        "the constraint needs more than {limit} {what}: lower its counts of repetitions, its depth or the number of \
         its alternatives"
    )]
    TooLarge {
        /// What there would be too much of.
        what: &'static str,
        /// The maximum.
        limit: usize,
    },
    /// No text at all, not even the empty one, satisfies the constraint.
    #[error("no text satisfies the constraint: it contradicts itself")]
    Empty,
    /// Texts satisfy the constraint, but the model has no tokens to write any of them.
    #[error(
        "no sequence of this model's tokens satisfies the constraint: its vocabulary lacks characters that are needed"
    )]
    EmptyForVocabulary,
    /// A token that the vocabulary does not have.
    #[error("the vocabulary has {vocabulary} tokens, but token {token} is needed: {purpose}")]
    Token {
        /// The token.
        token: i32,
        /// What it is needed for.
        purpose: &'static str,
        /// Number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// The model has no end token, so that a text cannot end before the end of a canvas.
    #[error("the model has no end token: a constrained answer cannot end without one")]
    NoEndToken,
    /// The shortest text that satisfies the constraint is longer than allowed.
    #[error("the constraint needs at least {needed} tokens, but only {budget} may be written")]
    Budget {
        /// Tokens of the shortest continuation.
        needed: usize,
        /// Tokens that may be written.
        budget: usize,
    },
    /// The positions that are fixed to certain tokens leave no text that satisfies the constraint.
    #[error(
        "the fixed positions of the canvas leave no text that satisfies the constraint: free some of them"
    )]
    Fixed,
    /// A step's distribution is damaged.
    #[error(
        "the probabilities at position {position} are not numbers: the weights are damaged, or their type overflows"
    )]
    NotFinite {
        /// The position in the canvas, counted from 0.
        position: usize,
    },
}

impl ConstraintError {
    /// A [`ConstraintError::Pattern`].
    pub(super) fn pattern(pattern: &str, problem: impl Into<String>) -> Self {
        const SHOWN: usize = 80;
        let mut shown: String = pattern.chars().take(SHOWN).collect();
        if shown.len() < pattern.len() {
            shown.push('…');
        }
        Self::Pattern {
            pattern: shown,
            problem: problem.into(),
        }
    }
}

/// How large a constraint may be. Whatever exceeds a limit ends in [`ConstraintError::TooLarge`]; with
/// the defaults no input takes more than two seconds or 256 MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a regular expression.
    pub pattern_bytes: usize,
    /// Classes of characters in a regular expression that have names, such as `\w` and `\pL`.
    pub character_classes: usize,
    /// Bytes of the nondeterministic automaton.
    pub nfa_bytes: usize,
    /// Elementary steps while the automaton is made deterministic.
    pub determinize_steps: usize,
    /// Transitions of the automaton before it is minimized.
    pub byte_transitions: usize,
    /// States of the minimized automaton.
    pub states: usize,
    /// Transitions that are stored for the effects of the vocabulary's tokens and their prefixes.
    pub token_transitions: usize,
    /// Pairs of states with a token between them.
    pub pairs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pattern_bytes: 1 << 18,
            character_classes: 4096,
            nfa_bytes: 32 << 20,
            determinize_steps: 50_000_000,
            byte_transitions: 2_000_000,
            states: 20_000,
            token_transitions: 8_000_000,
            pairs: 1_000_000,
        }
    }
}

//! White space between tokens of JSON.

use super::expression::Expression;

/// Spaces after a line break. Unlimited white space would invite a model to write nothing else.
const MAX_INDENT: usize = 24;

/// Which white space may stand between the tokens of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whitespace {
    /// None.
    Compact,
    /// After `{`, `[` and `,`, and before `}` and `]`, a line break with an indent of at most 24 spaces; after `{`, `[`,
    /// `,` and `:` a space. All of it may be left out.
    #[default]
    Flexible,
}

impl Whitespace {
    /// After an opening bracket or a comma.
    pub(super) fn before_member(self) -> Expression {
        match self {
            Self::Compact => Expression::empty(),
            Self::Flexible => Expression::choice([line_break(), Expression::text(" ")]).optional(),
        }
    }

    /// After a colon.
    pub(super) fn after_colon(self) -> Expression {
        match self {
            Self::Compact => Expression::empty(),
            Self::Flexible => Expression::text(" ").optional(),
        }
    }

    /// After the last member, before the closing bracket.
    pub(super) fn before_close(self) -> Expression {
        match self {
            Self::Compact => Expression::empty(),
            Self::Flexible => line_break().optional(),
        }
    }
}

fn line_break() -> Expression {
    let indent = Expression::text(" ").repeat(0, Some(MAX_INDENT));
    Expression::sequence([Expression::text("\n"), indent])
}

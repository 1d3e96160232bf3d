//! How a run of the program ends.

use llama_diffusion::FinishReason;
use llama_diffusion_flags::program::ERROR;

use crate::interrupt;

/// How it ended, except for errors that are not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    Interrupted,
    /// Something failed that did not end the program, and was reported.
    Failed,
}

impl From<FinishReason> for Ending {
    fn from(finish: FinishReason) -> Self {
        match finish {
            FinishReason::Cancelled => Self::Interrupted,
            FinishReason::EndOfText | FinishReason::Length | FinishReason::ContextFull => {
                Self::Done
            }
        }
    }
}

impl Ending {
    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Interrupted => interrupt::status(),
            Self::Failed => ERROR,
        }
    }
}

//! The parts of a pass over the model, and how long each takes.

use std::ffi::CStr;
use std::time::Duration;

use crate::ggml::profile::Times;

macro_rules! parts {
    ($($(#[$doc:meta])* $part:ident = $name:literal;)*) => {
        /// A part of a pass over the model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Part {
            $($(#[$doc])* $part,)*
        }

        impl Part {
            /// All parts, in the order of a pass.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$part,)*];

            /// The name of the nodes that belong to it.
            pub(crate) const fn label(self) -> &'static CStr {
                match self {
                    $(Self::$part => $name,)*
                }
            }
        }
    };
}

parts! {
    /// Looking tokens up, and self-conditioning: probabilities times embeddings, and its MLP.
    Embedding = c"embedding and self-conditioning";
    /// Projections, norms, the cache, and attention itself.
    Attention = c"attention";
    /// The MLP that every token goes through.
    DenseMlp = c"dense MLP";
    /// Selecting experts.
    Router = c"router";
    /// The chosen experts' MLPs and their sum.
    Experts = c"experts";
    /// The logits.
    OutputHead = c"output head";
    /// Everything between the logits and the drawn tokens.
    Draw = c"soft cap to draw";
    /// Copies between host and devices.
    Transfers = c"transfers";
    /// Everything else: building and scheduling graphs, masks, checks.
    Host = c"host";
}

impl Part {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        self.label().to_str().unwrap_or_default()
    }
}

/// How long each part of a computation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    parts: [Duration; Part::ALL.len()],
}

impl Profile {
    /// `whole` is the time of the computation, `transfers` the part of it that copies took,
    /// `graphs` what the nodes of each graph took.
    pub(crate) fn new(whole: Duration, transfers: Duration, graphs: &[Times]) -> Self {
        let mut parts =
            Part::ALL.map(|part| graphs.iter().map(|times| times.of(part.label())).sum());
        parts[Part::Transfers as usize] = transfers;
        let known = parts.iter().sum();
        parts[Part::Host as usize] = whole.saturating_sub(known);
        Self { parts }
    }

    /// Time of a part.
    pub fn of(&self, part: Part) -> Duration {
        self.parts[part as usize]
    }

    /// Time of all parts together.
    pub fn whole(&self) -> Duration {
        self.parts.iter().sum()
    }
}

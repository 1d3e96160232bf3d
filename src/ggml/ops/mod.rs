//! Operations that extend a graph, with the checks that ggml would make by aborting.

/// Fails with the operation's name, its requirement and the actual value.
macro_rules! require {
    ($cond:expr, $op:literal, $need:literal, $($got:expr),+) => {
        if !$cond {
            let got: Vec<String> = vec![$($got.label()),+];
            return Err(Error::Ggml(format!("{}: {}; got {}", $op, $need, got.join(", "))));
        }
    };
}

mod attention;
mod custom;
mod elements;
mod layout;
mod products;

pub(crate) use attention::{HIDDEN, Rope, VISIBLE};
pub(super) use custom::CpuKernel;

//! Copies between the host and tensors, counted for each thread.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::guard::guarded;
use crate::error::Result;

/// The amount of data copied between host and tensors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

thread_local! {
    static TRANSFERRED: Cell<Transfers> = const {
        Cell::new(Transfers { bytes: 0, time: Duration::ZERO })
    };
}

/// Runs a copy of this number of bytes, and counts it.
pub(super) fn transfer(bytes: usize, copy: impl FnOnce()) -> Result<()> {
    let start = Instant::now();
    guarded("copying to or from a device", copy)?;
    let before = TRANSFERRED.get();
    TRANSFERRED.set(Transfers {
        bytes: before.bytes.wrapping_add(bytes),
        time: before.time + start.elapsed(),
    });
    Ok(())
}

/// What this thread wrote to and read from tensors since it started.
pub(crate) fn transferred() -> Transfers {
    TRANSFERRED.get()
}

/// Values without padding whose every bit pattern is valid.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for u8 {}
impl Plain for u16 {}

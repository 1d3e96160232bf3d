//! The rows of a node, and which thread computes them.

use crate::sys;

/// The share of `total` items that thread `index` of `threads` does.
pub(super) fn share(total: usize, index: i32, threads: i32) -> std::ops::Range<usize> {
    let (index, threads) = (index as usize, threads as usize);
    total * index / threads..total * (index + 1) / threads
}

/// A row of an F32 tensor.
///
/// # Safety
/// `t` is F32 with contiguous rows, allocated in host memory that lives for `'a`, and `row` is one
/// of its rows.
pub(super) unsafe fn row<'a>(t: *const sys::ggml_tensor, row: usize) -> &'a [f32] {
    // SAFETY: by the contract of this function.
    unsafe {
        let t = &*t;
        let (n1, n2) = (t.ne[1] as usize, t.ne[2] as usize);
        let (i1, i2, i3) = (row % n1, row / n1 % n2, row / n1 / n2);
        let start = t
            .data
            .cast::<u8>()
            .add(i1 * t.nb[1] + i2 * t.nb[2] + i3 * t.nb[3]);
        std::slice::from_raw_parts(start.cast(), t.ne[0] as usize)
    }
}

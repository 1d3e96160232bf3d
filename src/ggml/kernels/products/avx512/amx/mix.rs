//! Rows of numbers, mixed with weights, both in BF16.

use super::super::super::instructions::STRIP;
use super::super::super::mixture::Rows as Mixed;
use super::super::super::scratch::{Line, Scratch};
use super::super::activations::round;
use super::super::mix::{LINES, convert_weights, fill_bf16};
use super::super::panel::Panel;
use super::tiles::{self, DEPTH, ROWS, Rows, TOGETHER};

/// Adds the mixture of some rows to each result, see [`Mix`](super::super::super::mixture::Mix).
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn mix(rows: &Mixed<'_>, scratch: &mut Scratch) {
    // SAFETY: the processor has tiles, by the contract of this function.
    unsafe { scratch.configure_tiles() };
    let (panel, weights) = scratch.panel_and_rows::<Panel>();
    // The last tile may have rows without a result.
    let results = rows.out.len();
    weights.resize(results.next_multiple_of(ROWS) * LINES, Line::default());
    // SAFETY: by the contract of this function.
    unsafe { convert_weights(rows, round, weights) };
    for first in (0..rows.columns).step_by(STRIP) {
        let columns = STRIP.min(rows.columns - first);
        // SAFETY: by the contract of this function.
        unsafe { fill_bf16(rows, first, columns, panel) };
        for t in (0..results).step_by(TOGETHER * ROWS) {
            let out = &rows.out[t..results.min(t + TOGETHER * ROWS)];
            let tiles = out.len().div_ceil(ROWS);
            let inputs = Rows {
                first: weights[t * LINES..].as_mut_ptr().cast(),
                stride: LINES * size_of::<Line>(),
            };
            // SAFETY: by the contract of this function; the panel has as many elements as the inputs.
            unsafe { add(tiles, inputs, panel, out, first, columns) };
        }
    }
}

/// Adds the products of the panel with the weights of results to their columns from `first` on.
/// Sums are added in the same order in whole tiles and in parts of one.
///
/// # Safety
/// Tiles are configured; there are `tiles` of weights, and the results have these columns, at most
/// [`STRIP`].
unsafe fn add(
    tiles: usize,
    weights: Rows<u8>,
    panel: &Panel,
    out: &[*mut f32],
    first: usize,
    columns: usize,
) {
    let product = |sums| {
        let (values, depth) = (panel.values.as_ptr().cast(), Mixed::MOST / DEPTH);
        // SAFETY: by the contract of this function; there is a sum for each weight.
        unsafe { tiles::multiply(tiles, values, depth, weights, sums) };
    };
    if out.len() == tiles * ROWS && columns == STRIP {
        return product(Rows {
            first: out[0].wrapping_add(first),
            stride: out[1].addr() - out[0].addr(),
        });
    }
    let mut sums = [[0.0_f32; STRIP]; TOGETHER * ROWS];
    // SAFETY: by the contract of this function.
    unsafe {
        for (out, sums) in out.iter().zip(&mut sums) {
            sums.as_mut_ptr()
                .copy_from_nonoverlapping(out.add(first), columns);
        }
        product(Rows {
            first: sums.as_mut_ptr().cast(),
            stride: 4 * STRIP,
        });
        for (out, sums) in out.iter().zip(&sums) {
            out.add(first)
                .copy_from_nonoverlapping(sums.as_ptr(), columns);
        }
    }
}

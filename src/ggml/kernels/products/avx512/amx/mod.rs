//! The products with AMX, whose tiles multiply 16 rows of BF16 with 16 others: weights as the
//! other kernels decode them, with their scales in BF16, times activations in BF16. Scales are
//! applied when weights are decoded, not between products, and the error is smaller than with
//! activations of 8 bits. Weights in F16, which have more bits, are multiplied as with AVX-512.

mod configuration;
#[cfg(all(test, target_os = "linux"))]
pub(in super::super) mod emulator;
mod mix;
mod pairs;
mod tiles;

use std::array::from_fn;

use super::super::format::Format;
use super::super::instructions::{Ahead, Conversion, Convert, Instructions, STRIP, Strip};
use super::super::scratch::{Line, Scratch};
use super::panel::{PAIRS, Panel};
use super::transpose;
use super::{GROUP, WITH_BF16, activations, decode};
pub(in super::super) use configuration::{Tiles, is_available};
use tiles::{DEPTH, ROWS, Rows, TOGETHER};

pub(in super::super) const INSTRUCTIONS: Instructions = Instructions {
    name: "amx_bf16",
    // An estimate: to decode weights takes as long as to multiply them with about this many inputs.
    least_inputs: 32,
    wants_contiguous: in_tiles,
    conversion,
    mix_bf16: Some(mix::mix),
    product,
    ..WITH_BF16
};

const _: () = assert!(STRIP == ROWS, "a strip of weights is a tile");

/// Whether weights are multiplied in tiles.
fn in_tiles(format: Format) -> bool {
    format != Format::F16
}

/// See [`Instructions::conversion`].
fn conversion(format: Format, k: usize) -> Option<Conversion> {
    static ROUND: Convert = activations::round;
    if !in_tiles(format) {
        return (WITH_BF16.conversion)(format, k);
    }
    Some(Conversion {
        convert: &ROUND,
        bytes: 2 * k,
    })
}

/// Multiplies a strip, see [`Instructions::product`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn product(strip: &Strip<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    if !in_tiles(strip.format) {
        // SAFETY: by the contract of this function.
        return unsafe { (WITH_BF16.product)(strip, scratch, out) };
    }
    let inputs = strip.inputs;
    assert_eq!(out.len(), inputs.len() * STRIP);
    out.fill(0.0);
    // SAFETY: the processor has tiles, by the contract of this function.
    unsafe { scratch.configure_tiles() };
    let (panel, rows) = scratch.panel_and_rows::<Panel>();
    // With each group, as it is decoded and as some inputs are multiplied.
    let times = 1 + Tiled(inputs).count();
    let ahead = &mut strip.ahead(strip.k / GROUP * times);
    for first in (0..strip.k).step_by(PAIRS) {
        let k = PAIRS.min(strip.k - first);
        // SAFETY: by the contract of this function: `k` elements from `first` on are a part of each row.
        unsafe {
            decode_pairs(strip, first, k, panel, ahead);
            let mut sums = out.as_mut_ptr();
            for (tiles, inputs) in Tiled(inputs) {
                let elements = Elements { first, k };
                multiply(tiles, inputs, elements, panel, rows, sums);
                sums = sums.add(inputs.len() * STRIP);
                ahead.read(k / GROUP);
            }
        }
    }
}

/// Inputs in as many whole tiles as are multiplied together; the last may be a part of one.
struct Tiled<'a>(&'a [*const u8]);

impl<'a> Iterator for Tiled<'a> {
    /// The number of tiles, and their inputs.
    type Item = (usize, &'a [*const u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let tiles = (self.0.len() / ROWS).clamp(1, TOGETHER);
        let (now, later) = self.0.split_at((tiles * ROWS).min(self.0.len()));
        self.0 = later;
        (!now.is_empty()).then_some((tiles, now))
    }
}

/// Some elements of each row.
#[derive(Clone, Copy)]
struct Elements {
    first: usize,
    k: usize,
}

/// Decodes `k` elements of each row of a strip, from `first` on, to pairs of BF16.
///
/// # Safety
/// The rows have these elements, whole groups and blocks; at most [`PAIRS`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn decode_pairs(
    strip: &Strip<'_>,
    first: usize,
    k: usize,
    panel: &mut Panel,
    ahead: &mut Ahead,
) {
    // Beyond the last row the results have no meaning.
    let rows: transpose::Rows = from_fn(|r| {
        let offset = r.min(strip.rows - 1) * strip.stride + strip.format.bytes(first);
        strip.weights.wrapping_add(offset)
    });
    // SAFETY: by the contract of this function.
    unsafe {
        if strip.format == Format::BF16 {
            decode::bf16_pairs(&rows, k, panel, ahead);
        } else {
            decode::decode(strip.format, &rows, k, panel, ahead);
            pairs::from_quads(strip.format, k, panel);
        }
    }
}

/// Adds the products of the panel with inputs in BF16 to `sums`, a row of [`STRIP`] for each input.
///
/// # Safety
/// Tiles are configured; the panel has the elements of its rows, and each input does; the inputs
/// fill `tiles`, or a part of one tile, and each is as far from the one before it.
unsafe fn multiply(
    tiles: usize,
    inputs: &[*const u8],
    elements: Elements,
    panel: &Panel,
    rows: &mut Vec<Line>,
    sums: *mut f32,
) {
    let Elements { first, k } = elements;
    let product = |inputs, sums| {
        let (values, depth) = (panel.values.as_ptr().cast(), k / DEPTH);
        let stride = 4 * STRIP;
        let sums = Rows {
            first: sums,
            stride,
        };
        // SAFETY: by the contract of this function.
        unsafe { tiles::multiply(tiles, values, depth, inputs, sums) };
    };
    if inputs.len() == tiles * ROWS {
        let contiguous = Rows {
            first: inputs[0].wrapping_add(2 * first).cast_mut(),
            stride: inputs[1].addr() - inputs[0].addr(),
        };
        return product(contiguous, sums);
    }
    let mut tile = [0.0_f32; ROWS * STRIP];
    let of_inputs = inputs.len() * STRIP;
    // SAFETY: by the contract of this function; a tile has room for the sums of these inputs.
    unsafe {
        tile.as_mut_ptr().copy_from_nonoverlapping(sums, of_inputs);
        product(whole_tile(inputs, elements, rows), tile.as_mut_ptr());
        sums.copy_from_nonoverlapping(tile.as_ptr(), of_inputs);
    }
}

/// Copies elements of BF16 of fewer inputs than a tile has rows. What is in the other rows does not
/// matter.
///
/// # Safety
/// The inputs have the elements, at most [`PAIRS`].
unsafe fn whole_tile(inputs: &[*const u8], elements: Elements, rows: &mut Vec<Line>) -> Rows<u8> {
    rows.resize(ROWS * LINES, Line::default());
    let first = rows.as_mut_ptr().cast::<u8>();
    let stride = LINES * size_of::<Line>();
    for (i, input) in inputs.iter().enumerate() {
        // SAFETY: by the contract of this function; there is room for a row of each input.
        unsafe {
            let from = input.add(2 * elements.first);
            first
                .add(i * stride)
                .copy_from_nonoverlapping(from, 2 * elements.k);
        }
    }
    Rows { first, stride }
}

/// Lines of a row of BF16 as long as a panel, and one more: rows a power of two apart would share
/// places in the cache.
const LINES: usize = 2 * PAIRS / size_of::<Line>() + 1;

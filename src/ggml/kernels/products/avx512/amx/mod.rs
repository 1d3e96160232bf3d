//! The products with AMX, whose tiles multiply 16 rows of BF16 with 16 others: weights as the other kernels decode
//! them, with their scales in BF16, times activations in BF16. So a scale for each group costs nothing between the
//! products, and the error is smaller than with activations of 8 bits. Weights in F16, which have more bits, are
//! multiplied as with AVX-512.

mod configuration;
#[cfg(test)]
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
    // To decode weights takes as long as to multiply them with about so many inputs.
    least_inputs: 32,
    wants_neighbours: true,
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
    let (panel, copies) = scratch.panel_and_copies::<Panel>();
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
                multiply(tiles, inputs, elements, panel, copies, sums);
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
/// Tiles are configured; the panel has the elements of its rows, and each input does; the inputs are at most
/// those of `tiles`.
unsafe fn multiply(
    tiles: usize,
    inputs: &[*const u8],
    elements: Elements,
    panel: &Panel,
    copies: &mut Vec<Line>,
    sums: *mut f32,
) {
    let Elements { first, k } = elements;
    let whole = inputs.len() == tiles * ROWS;
    let stride = stride(inputs.iter().map(|row| row.addr())).filter(|_| whole);
    let neighbours = stride.map(|stride| Rows {
        first: inputs[0].wrapping_add(2 * first).cast_mut(),
        stride,
    });
    // SAFETY: by the contract of this function.
    unsafe {
        let rows = neighbours.unwrap_or_else(|| copy(inputs, elements, copies));
        let (values, depth) = (panel.values.as_ptr().cast(), k / DEPTH);
        let product = |sums| {
            let stride = 4 * STRIP;
            tiles::multiply(
                tiles,
                values,
                depth,
                rows,
                Rows {
                    first: sums,
                    stride,
                },
            );
        };
        if whole {
            return product(sums);
        }
        let mut tile = [0.0_f32; ROWS * STRIP];
        let of_inputs = inputs.len() * STRIP;
        tile.as_mut_ptr().copy_from_nonoverlapping(sums, of_inputs);
        product(tile.as_mut_ptr());
        sums.copy_from_nonoverlapping(tile.as_ptr(), of_inputs);
    }
}

/// The distance in bytes from each address to the next, if all are the same.
fn stride(addresses: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let pairs = addresses.clone().zip(addresses.skip(1));
    let mut distances = pairs.map(|(one, next)| next.wrapping_sub(one));
    let first = distances.next()?;
    distances.all(|other| other == first).then_some(first)
}

/// Copies elements of BF16 of each input, so that they have the same distance.
///
/// # Safety
/// The inputs have the elements, at most [`PAIRS`].
unsafe fn copy(inputs: &[*const u8], elements: Elements, copies: &mut Vec<Line>) -> Rows<u8> {
    /// One line more than a row has: rows a power of two apart would share places in the cache.
    const LINES: usize = 2 * PAIRS / size_of::<Line>() + 1;
    copies.resize(TOGETHER * ROWS * LINES, Line::default());
    for (from, to) in inputs.iter().zip(copies.chunks_exact_mut(LINES)) {
        // SAFETY: by the contract of this function.
        unsafe {
            let from = from.add(2 * elements.first);
            to.as_mut_ptr()
                .cast::<u8>()
                .copy_from_nonoverlapping(from, 2 * elements.k);
        }
    }
    Rows {
        first: copies.as_mut_ptr().cast(),
        stride: LINES * size_of::<Line>(),
    }
}

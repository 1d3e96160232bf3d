//! The products with AVX-512 and VNNI: what they consist of, and how a strip of weights is cut into
//! panels and tiles. `decode` makes a panel of stored weights, `activations` converts the inputs,
//! `tiles` has the innermost loops, and `mix` the rows of self-conditioning. A vector has two or four
//! elements of each row of a strip. Where the processor multiplies BF16, `bf16` takes such weights as
//! they are stored. `amx` is built on all of this.

mod activations;
pub(super) mod amx;
mod bf16;
mod decode;
mod mix;
mod panel;
mod tiles;
mod transpose;

use std::array::from_fn;
use std::ops::Range;

use super::format::{Format, GROUP};
use super::instructions::{Ahead, Conversion, Convert, Instructions, STRIP, Strip};
use super::scratch::Scratch;
use activations::{ByteRow, WordRow};
use panel::{PAIRS, Panel, QUADS};
use transpose::Rows;

pub(super) const INSTRUCTIONS: Instructions = Instructions {
    name: "avx512",
    has_wide_vectors: true,
    least_inputs: 1,
    wants_contiguous: |_| false,
    conversion: conversion::<false>,
    mix_integers: Some(mix::mix::<false>),
    mix_bf16: None,
    product: product::<false>,
};

/// With products of BF16.
pub(super) const WITH_BF16: Instructions = Instructions {
    name: "avx512_bf16",
    conversion: conversion::<true>,
    mix_bf16: Some(mix::mix::<true>),
    product: product::<true>,
    ..INSTRUCTIONS
};

/// Inputs that are multiplied together: as many as the registers can hold sums for.
const TILE: usize = 12;

/// What a panel is multiplied with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activations {
    /// A [`WordRow`].
    Words,
    /// A [`ByteRow`].
    Bytes,
}

impl Activations {
    fn of(format: Format) -> Self {
        match format.is_float() {
            true => Self::Words,
            false => Self::Bytes,
        }
    }

    /// Elements of a row that a panel holds.
    fn elements(self) -> usize {
        match self {
            Self::Words => PAIRS,
            Self::Bytes => QUADS,
        }
    }
}

/// See [`Instructions::conversion`].
fn conversion<const BF16: bool>(format: Format, k: usize) -> Option<Conversion> {
    static ROUND: Convert = activations::round;
    static TO_WORDS: Convert = activations::to_words;
    static TO_BYTES: Convert = activations::to_bytes;
    let (convert, bytes) = match Activations::of(format) {
        _ if BF16 && format == Format::BF16 => (&ROUND, 2 * k),
        Activations::Words => (&TO_WORDS, WordRow::new(k).bytes()),
        Activations::Bytes => (&TO_BYTES, ByteRow::new(k).bytes()),
    };
    Some(Conversion { convert, bytes })
}

/// Multiplies a strip, see [`Instructions::product`]. With `BF16` the activations for weights in
/// BF16 are BF16, too.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product<const BF16: bool>(strip: &Strip<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    assert_eq!(out.len(), strip.inputs.len() * STRIP);
    let format = strip.format;
    if BF16 && format == Format::BF16 {
        // SAFETY: by the contract of this function.
        return unsafe { bf16::product(strip, out) };
    }
    out.fill(0.0);
    let activations = Activations::of(format);
    let panel: &mut Panel = scratch.panel();
    let most = activations.elements();
    let chunks = strip.k.div_ceil(most);
    let tiles = strip.inputs.len().div_ceil(TILE);
    // With each group, as it is decoded and as each tile is multiplied.
    let ahead = &mut strip.ahead(strip.k / GROUP * (1 + tiles));
    for chunk in 0..chunks {
        let first = chunk * most;
        let k = most.min(strip.k - first);
        // Beyond the last row the results have no meaning.
        let rows: Rows = from_fn(|r| {
            let offset = r.min(strip.rows - 1) * strip.stride + format.bytes(first);
            strip.weights.wrapping_add(offset)
        });
        // SAFETY: `k` elements from `first` on are a part of each row, and fit the panel; `out` has
        // a row for every input.
        unsafe {
            decode::decode(format, &rows, k, panel, ahead);
            let mut t = 0;
            for i in 0..tiles {
                let n = (strip.inputs.len() - t).div_ceil(tiles - i);
                multiply(
                    strip,
                    activations,
                    panel,
                    t..t + n,
                    first..first + k,
                    ahead,
                    out.as_mut_ptr(),
                );
                t += n;
            }
        }
    }
}

/// Adds to `out` the products of the panel, which has the elements `part` of its rows, with the
/// `inputs`, at most [`TILE`].
///
/// # Safety
/// `out` has [`STRIP`] elements for every input; else as [`product`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply(
    strip: &Strip<'_>,
    activations: Activations,
    panel: &Panel,
    inputs: Range<usize>,
    part: Range<usize>,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    macro_rules! tile {
        ($($n:literal: $c:literal,)*) => {
            match inputs.len() {
                $($n => tile::<$n, $c>(strip, activations, panel, inputs.start, part, ahead, out),)*
                _ => unreachable!("a tile has 1 to {TILE} inputs"),
            }
        };
    }
    // SAFETY: by the contract of this function.
    unsafe {
        tile! {
            1: 4, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1,
            7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1,
        }
    }
}

/// [`multiply`] for the `T` inputs from `t` on, with `C` vectors of sums of integers for each.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile<const T: usize, const C: usize>(
    strip: &Strip<'_>,
    activations: Activations,
    panel: &Panel,
    t: usize,
    part: Range<usize>,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    let (first, k) = (part.start, part.len());
    let inputs = strip.inputs[t..].first_chunk::<T>();
    let inputs = *inputs.expect("a tile of inputs");
    // SAFETY: by the contract of this function; rows of inputs have `strip.k` elements.
    unsafe {
        let out = out.add(t * STRIP);
        match activations {
            Activations::Words => {
                let part = WordRow::new(strip.k).part(first);
                tiles::words::<T, C>(panel, inputs, part, k, ahead, out);
            }
            Activations::Bytes => {
                let part = ByteRow::new(strip.k).part(first);
                match strip.format {
                    Format::Q4_K | Format::Q5_K => {
                        tiles::bytes_and_minima::<T, C>(panel, inputs, part, k, ahead, out);
                    }
                    Format::Q6_K => tiles::bytes::<T, C, 16>(panel, inputs, part, k, ahead, out),
                    _ => tiles::bytes::<T, C, GROUP>(panel, inputs, part, k, ahead, out),
                }
            }
        }
    }
}

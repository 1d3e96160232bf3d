//! AVX-512 with VNNI: a vector has an element, or a pair of elements, of each row of a strip.

mod decode;
mod mix;
mod panel;
mod quantize;
mod round;
mod tiles;
mod transpose;

use std::array::from_fn;
use std::ops::Range;

use super::avx2;
use super::format::{Format, GroupedRow, QuantizedRow};
use super::instructions::{Instructions, STRIP, Strip};
use super::scratch::Scratch;
use panel::{ELEMENTS, Panel};
use transpose::Rows;

pub(super) const INSTRUCTIONS: Instructions = Instructions {
    name: "avx512",
    has_wide_vectors: true,
    quantize: avx2::INSTRUCTIONS.quantize,
    quantize_groups: Some(quantize::quantize_groups),
    round: None,
    mix_integers: Some(mix::mix::<false>),
    mix_bf16: None,
    product: product::<false>,
};

/// With products of BF16.
pub(super) const WITH_BF16: Instructions = Instructions {
    name: "avx512_bf16",
    round: Some(round::round),
    mix_bf16: Some(mix::mix::<true>),
    product: product::<true>,
    ..INSTRUCTIONS
};

/// Inputs that are multiplied together: as many as the registers can hold sums for.
const TILE: usize = 12;

/// What a panel is multiplied with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activations {
    BF16,
    /// A [`GroupedRow`].
    Groups,
    /// A [`QuantizedRow`].
    Blocks,
}

impl Activations {
    /// `bf16`: whether the processor multiplies BF16.
    fn of(format: Format, bf16: bool) -> Self {
        match format {
            Format::BF16 if bf16 => Self::BF16,
            Format::F16 | Format::BF16 => Self::Groups,
            _ => Self::Blocks,
        }
    }
}

/// Multiplies a strip, see [`Instructions::product`]. With `BF16` the activations for weights in
/// BF16 are BF16, too.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product<const BF16: bool>(strip: &Strip<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    assert_eq!(out.len(), strip.inputs.len() * STRIP);
    out.fill(0.0);
    let panel: &mut Panel = scratch.panel();
    let format = strip.format;
    let activations = Activations::of(format, BF16);
    let chunks = strip.k.div_ceil(ELEMENTS);
    for chunk in 0..chunks {
        let first = chunk * ELEMENTS;
        let k = ELEMENTS.min(strip.k - first);
        // Beyond the last row the results have no meaning.
        let rows: Rows = from_fn(|r| {
            let offset = r.min(strip.rows - 1) * strip.stride + format.bytes(first);
            strip.weights.wrapping_add(offset)
        });
        // SAFETY: `k` elements from `first` on are a part of each row, and fit the panel; `out` has
        // a row for every input.
        unsafe {
            match activations {
                Activations::BF16 => decode::bf16_pairs(&rows, k, panel),
                _ => decode::decode(format, &rows, k, panel),
            }
            let tiles = strip.inputs.len().div_ceil(TILE);
            let mut t = 0;
            for i in 0..tiles {
                strip.prefetch_next(chunk * tiles + i, chunks * tiles);
                let n = (strip.inputs.len() - t).div_ceil(tiles - i);
                multiply(
                    strip,
                    activations,
                    panel,
                    t..t + n,
                    first..first + k,
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
    out: *mut f32,
) {
    macro_rules! tile {
        ($($n:literal: $c:literal,)*) => {
            match inputs.len() {
                $($n => tile::<$n, $c>(strip, activations, panel, inputs.start, part, out),)*
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
    out: *mut f32,
) {
    let (first, k) = (part.start, part.len());
    let inputs: [*const u8; T] = from_fn(|i| strip.inputs[t + i]);
    // SAFETY: by the contract of this function; rows of inputs have `strip.k` elements.
    unsafe {
        let out: [*mut f32; T] = from_fn(|i| out.add((t + i) * STRIP));
        match activations {
            Activations::BF16 => {
                let inputs = inputs.map(|x| x.cast::<u16>().add(first));
                tiles::bf16_pairs(panel, inputs, k, out);
            }
            Activations::Groups => {
                let parts = GroupedRow::new(strip.k);
                let inputs = inputs.map(|x| parts.part(x, first));
                tiles::groups::<T, C>(panel, inputs, k, out);
            }
            Activations::Blocks => {
                let parts = QuantizedRow::new(strip.k);
                let inputs = inputs.map(|x| parts.part(x, first));
                match strip.format {
                    Format::Q4_K | Format::Q5_K => {
                        tiles::blocks::<T, C, true>(panel, inputs, k, out);
                    }
                    _ => tiles::blocks::<T, C, false>(panel, inputs, k, out),
                }
            }
        }
    }
}

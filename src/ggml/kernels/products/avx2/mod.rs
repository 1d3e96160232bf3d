//! AVX2, FMA and F16C: what all x86 processors with AVX2 have.

mod activations;
mod decode;
mod panel;
mod tiles;

use super::format::Format;
use super::instructions::{Conversion, Convert, Instructions, STRIP, Strip};
use super::scratch::Scratch;
use activations::QuantizedRow;
use panel::{FLOATS, INTEGERS, Panel, ROWS};

pub(super) const INSTRUCTIONS: Instructions = Instructions {
    name: "avx2",
    has_wide_vectors: false,
    least_inputs: 1,
    wants_contiguous: |_| false,
    conversion,
    mix_integers: None,
    mix_bf16: None,
    product,
};

/// See [`Instructions::conversion`].
fn conversion(format: Format, k: usize) -> Option<Conversion> {
    static QUANTIZE: Convert = activations::quantize;
    (!format.is_float()).then(|| Conversion {
        convert: &QUANTIZE,
        bytes: QuantizedRow::new(k).bytes,
    })
}

/// Multiplies a strip, see [`Instructions::product`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product(strip: &Strip<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    assert_eq!(out.len(), strip.inputs.len() * STRIP);
    out.fill(0.0);
    let panel: &mut Panel = scratch.panel();
    let format = strip.format;
    let most = if format.is_float() { FLOATS } else { INTEGERS };
    let (chunks, tiles) = (strip.k.div_ceil(most), strip.rows.div_ceil(ROWS));
    let mut ahead = strip.ahead(chunks * tiles);
    for chunk in 0..chunks {
        let first = chunk * most;
        let k = most.min(strip.k - first);
        for tile in (0..strip.rows).step_by(ROWS) {
            ahead.read(1);
            for r in 0..ROWS {
                // Beyond the last row the results have no meaning.
                let row = (tile + r).min(strip.rows - 1);
                // SAFETY: `k` elements from `first` on are a part of this row, and fit the panel.
                unsafe {
                    let offset = row * strip.stride + format.bytes(first);
                    decode::decode(format, strip.weights.add(offset), k, panel, r);
                }
            }
            // SAFETY: by the contract of this function; `out` has a row for every input.
            unsafe { multiply(strip, panel, first, k, out.as_mut_ptr().add(tile)) };
        }
    }
}

/// Adds to `out` the products of the panel, which has the elements `first .. first + k`, with all
/// inputs.
///
/// # Safety
/// `out` has [`ROWS`] elements for every input, [`STRIP`] apart; else as [`product`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply(strip: &Strip<'_>, panel: &Panel, first: usize, k: usize, out: *mut f32) {
    let count = strip.inputs.len();
    let mut t = 0;
    // SAFETY: by the contract of this function; `t` remains below the number of inputs.
    unsafe {
        // As many inputs as the registers can hold sums for.
        if strip.format.is_float() {
            while count - t >= 3 {
                tile::<3>(strip, panel, t, first, k, out);
                t += 3;
            }
        }
        while count - t >= 2 {
            tile::<2>(strip, panel, t, first, k, out);
            t += 2;
        }
        if t < count {
            tile::<1>(strip, panel, t, first, k, out);
        }
    }
}

/// [`multiply`] for the `T` inputs from `t` on.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const T: usize>(
    strip: &Strip<'_>,
    panel: &Panel,
    t: usize,
    first: usize,
    k: usize,
    out: *mut f32,
) {
    // SAFETY: by the contract of this function; rows of inputs have `strip.k` elements.
    unsafe {
        let out: [*mut f32; T] = std::array::from_fn(|i| out.add((t + i) * STRIP));
        let inputs: [*const u8; T] = std::array::from_fn(|i| strip.inputs[t + i]);
        if strip.format.is_float() {
            let inputs = inputs.map(|x| x.cast::<f32>().add(first));
            tiles::floats(panel, inputs, k, out);
            return;
        }
        let parts = QuantizedRow::new(strip.k);
        let inputs = inputs.map(|x| parts.part(x, first));
        match strip.format {
            Format::Q4_K | Format::Q5_K => tiles::blocks::<T, true>(panel, inputs, k, out),
            Format::Q6_K => tiles::blocks::<T, false>(panel, inputs, k, out),
            _ => tiles::groups(panel, inputs, k, out),
        }
    }
}

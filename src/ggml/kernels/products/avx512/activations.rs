//! Activations become BF16, or integers with a scale for each group.

use std::arch::x86_64::*;

use super::super::format::GROUP;

/// Vectors of a group.
const VECTORS: usize = GROUP / 16;
/// The greatest integer of 8 bits that stands for an activation.
const GREATEST_OF_BYTES: f32 = 127.0;
/// The greatest integer that stands for a float, of weights in F16 and of their activations: the sum
/// of 32 products remains below 2^31.
pub(super) const GREATEST_OF_WORDS: u16 = 8191;

/// A row of integers of 14 bits for weights that are floats: a scale (F32) for each group, then the
/// integers (I16).
pub(super) struct WordRow {
    groups: usize,
}

/// Where a part of a [`WordRow`] is: offsets in bytes.
#[derive(Clone, Copy)]
pub(super) struct WordPart {
    /// One for each group.
    pub(super) scales: usize,
    pub(super) values: usize,
}

impl WordRow {
    /// Of `k` elements, which are whole groups.
    pub(super) const fn new(k: usize) -> Self {
        Self { groups: k / GROUP }
    }

    /// Size in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.groups * (4 + 2 * GROUP)
    }

    /// The part of a row from element `first` on, which begins a group.
    pub(super) fn part(&self, first: usize) -> WordPart {
        WordPart {
            scales: 4 * (first / GROUP),
            values: 4 * self.groups + 2 * first,
        }
    }
}

/// A row of integers of 8 bits for quantized weights. For each group a scale (F32) and the sum of the
/// elements (F32), then for each group, and for each half of one, the sum of the integers times
/// -[`OFFSET`] (I32), then the integers (I8).
pub(super) struct ByteRow {
    groups: usize,
}

/// What is added to weights with a sign, because a factor of the product has none.
pub(super) const OFFSET: i32 = 128;

/// Where a part of a [`ByteRow`] is: offsets in bytes.
#[derive(Clone, Copy)]
pub(super) struct BytePart {
    /// One for each group.
    pub(super) scales: usize,
    /// One for each group.
    pub(super) sums: usize,
    /// One for each group.
    pub(super) offsets: usize,
    /// One for each half of a group.
    pub(super) offsets_of_halves: usize,
    pub(super) values: usize,
}

impl ByteRow {
    /// Of `k` elements, which are whole groups.
    pub(super) fn new(k: usize) -> Self {
        Self { groups: k / GROUP }
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.groups * (5 * 4 + GROUP)
    }

    /// The part of a row from element `first` on, which begins a group.
    pub(super) fn part(&self, first: usize) -> BytePart {
        let (groups, g) = (self.groups, first / GROUP);
        BytePart {
            scales: 4 * g,
            sums: 4 * (groups + g),
            offsets: 4 * (2 * groups + g),
            offsets_of_halves: 4 * (3 * groups + 2 * g),
            values: 4 * (5 * groups) + first,
        }
    }
}

/// Rounds a row to BF16.
///
/// # Safety
/// As for [`Convert`](super::super::instructions::Convert).
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
pub(super) unsafe fn round(row: &[f32], to: *mut u8) {
    for (i, values) in row.chunks_exact(16).enumerate() {
        // SAFETY: 16 floats, and room for as many numbers of two bytes. A vector of BF16 has the
        // layout of one of integers.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            let bits = std::mem::transmute::<__m256bh, __m256i>(rounded);
            _mm256_storeu_si256(to.cast::<u16>().add(16 * i).cast(), bits);
        }
    }
}

/// The bits of the magnitudes of floats.
#[inline]
#[target_feature(enable = "avx512f")]
fn magnitudes(numbers: __m512) -> __m512i {
    _mm512_castps_si512(_mm512_abs_ps(numbers))
}

/// The integers of a group, and their scale: zeros and NaN if a number is not finite.
///
/// # Safety
/// `group` has [`GROUP`] numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn quantize(group: *const f32, greatest: f32) -> ([__m512i; VECTORS], f32) {
    // Without closures: to `core` they have other processor features, and stay calls.
    // SAFETY: by the contract of this function.
    let numbers: [__m512; VECTORS] =
        unsafe { [_mm512_loadu_ps(group), _mm512_loadu_ps(group.add(16))] };
    // As integers the magnitudes of floats have the order of the floats, with NaN last.
    let [first, second] = numbers;
    let greater = _mm512_max_epu32(magnitudes(first), magnitudes(second));
    let (scale, inverse) = match f32::from_bits(_mm512_reduce_max_epu32(greater)) {
        most if !most.is_finite() => return ([_mm512_setzero_si512(); VECTORS], f32::NAN),
        most if most < 1e-30 => (0.0, 0.0),
        most => (most / greatest, greatest / most),
    };
    let inverse = _mm512_set1_ps(inverse);
    let mut integers = [_mm512_setzero_si512(); VECTORS];
    for (integers, numbers) in integers.iter_mut().zip(numbers) {
        *integers = _mm512_cvtps_epi32(_mm512_mul_ps(numbers, inverse));
    }
    (integers, scale)
}

/// Makes a [`WordRow`].
///
/// # Safety
/// As for [`Convert`](super::super::instructions::Convert).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn to_words(row: &[f32], to: *mut u8) {
    let parts = WordRow::new(row.len());
    for (g, group) in row.chunks_exact(GROUP).enumerate() {
        // SAFETY: a group of floats, and room for as many integers and a scale.
        unsafe {
            let (integers, scale) = quantize(group.as_ptr(), f32::from(GREATEST_OF_WORDS));
            let part = parts.part(g * GROUP);
            to.add(part.scales).cast::<f32>().write(scale);
            let values = to.add(part.values).cast::<__m256i>();
            for (i, integers) in integers.into_iter().enumerate() {
                _mm256_storeu_si256(values.add(i), _mm512_cvtepi32_epi16(integers));
            }
        }
    }
}

/// Makes a [`ByteRow`].
///
/// # Safety
/// As for [`Convert`](super::super::instructions::Convert).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn to_bytes(row: &[f32], to: *mut u8) {
    let parts = ByteRow::new(row.len());
    for (g, group) in row.chunks_exact(GROUP).enumerate() {
        // SAFETY: a group of floats, and room for as many integers and what a row has for a group.
        unsafe {
            let (integers, scale) = quantize(group.as_ptr(), GREATEST_OF_BYTES);
            let part = parts.part(g * GROUP);
            let mut sums = [0; VECTORS];
            let values = to.add(part.values).cast::<__m128i>();
            let halves = to.add(part.offsets_of_halves).cast::<i32>();
            for (i, integers) in integers.into_iter().enumerate() {
                sums[i] = _mm512_reduce_add_epi32(integers);
                halves.add(i).write(-OFFSET * sums[i]);
                _mm_storeu_si128(values.add(i), _mm512_cvtepi32_epi8(integers));
            }
            let sum = sums[0] + sums[1];
            to.add(part.scales).cast::<f32>().write(scale);
            to.add(part.sums).cast::<f32>().write(sum as f32 * scale);
            to.add(part.offsets).cast::<i32>().write(-OFFSET * sum);
        }
    }
}

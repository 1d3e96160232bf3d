//! Attention with an online softmax, as in FlashAttention (Dao et al. 2022).
//!
//! A thread takes a tile of queries of all heads that share keys and values, and goes through the
//! keys in blocks: a block becomes F32 once for all of them, scores and mixtures are products of
//! whole tiles by `matrixmultiply`, in F32. Blocks that a tile does not see cost nothing. A result
//! does not depend on which queries share a tile, on the number of threads, or on hidden keys.

#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use matrixmultiply::sgemm;
use multiversion::multiversion;

use super::super::context::Context;
use super::super::ops::{CpuKernel, VISIBLE};
use super::super::tensor::Tensor;
use super::LANES;
use super::math::exp;
use super::rows::share;
use super::stored::{Reader, is_readable};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Keys that are multiplied together.
const KEYS: usize = 128;
/// Rows (a query of one head each) of a tile, where the threads leave that many.
const ROWS: usize = 256;

impl Context {
    /// Attention: contiguous `q [head_dim, heads, queries]` in F32, `k` and `v` `[head_dim, keys,
    /// kv_heads]` of any type, to `[head_dim, heads, queries]`. Scores are not scaled. The mask, F16
    /// `[keys, queries]`, has 0 for a key that a query sees, and negative infinity for others. A
    /// query that sees none gets 0. CPU only.
    pub(crate) fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let ([dim, heads, queries, batch], [_, keys, kv_heads, _]) = (q.ne(), k.ne());
        let stored = |t: &Tensor| {
            t.ne() == [dim, keys, kv_heads, 1]
                && t.ty()
                    .is_some_and(|ty| is_readable(ty) && dim.is_multiple_of(ty.block_len()))
        };
        let fits = q.is(TensorType::F32)
            && q.is_contiguous()
            && batch == 1
            && stored(k)
            && stored(v)
            && kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && mask.is(TensorType::F16)
            && mask.is_contiguous()
            && mask.ne() == [keys, queries, 1, 1];
        if !fits {
            let labels = [q, k, v, mask].map(Tensor::label).join(", ");
            return Err(Error::Ggml(format!("attention: {labels} do not fit")));
        }
        let kernel = attention_kernel as CpuKernel;
        self.custom(&q.ne(), &[q, k, v, mask], kernel)
    }
}

/// Computes some tiles of [`Context::attention`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `attention` made.
unsafe extern "C" fn attention_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `attention` checked types and shapes, so all rows are in the memory of their tensors;
    // threads write to rows of tiles of their own.
    unsafe {
        let node = &*dst;
        let [q, k, v, mask] = [0, 1, 2, 3].map(|i| &*node.src[i]);
        let [dim, heads, queries, _] = node.ne.map(|n| n as usize);
        let [_, keys, kv_heads, _] = k.ne.map(|n| n as usize);
        let (Some(k), Some(v)) = (Reader::of(k), Reader::of(v)) else {
            return;
        };
        let mask = from_raw_parts(mask.data.cast::<u16>(), keys * queries);
        let group = heads / kv_heads;
        let tile = tile_len(queries, group, kv_heads, threads as usize);
        let tiles = queries.div_ceil(tile);
        let mut work = Tile::new(dim, group * tile);
        // Of each tile; all heads see the same.
        let mut seen: Vec<Option<Vec<Range<usize>>>> = vec![None; tiles];
        for item in share(kv_heads * tiles, index, threads) {
            let (head, number) = (item / tiles, item % tiles);
            let range = number * tile..queries.min((number + 1) * tile);
            // Rows are those of one head after the other.
            let row_of = |head: usize, query: usize| (query * heads + head) * dim;
            let group = head * group..(head + 1) * group;
            let offsets = || {
                let queries = |head| range.clone().map(move |query| row_of(head, query));
                group.clone().flat_map(queries)
            };
            work.begin(offsets().map(|offset| {
                let row = q.data.cast::<f32>().add(offset);
                from_raw_parts(row, dim)
            }));
            let mask = &mask[range.start * keys..range.end * keys];
            for keys_of_block in seen[number].get_or_insert_with(|| seen_keys(mask, keys)) {
                work.attend([&k, &v], head, mask, keys, keys_of_block.clone());
            }
            let out = |offset| from_raw_parts_mut(node.data.cast::<f32>().add(offset), dim);
            work.finish(offsets().map(out));
        }
    }
}

/// Queries of a tile: as many as fill its rows, fewer if some threads would have no tile.
fn tile_len(queries: usize, group: usize, kv_heads: usize, threads: usize) -> usize {
    let tiles_of_head = threads.div_ceil(kv_heads);
    (ROWS / group).min(queries.div_ceil(tiles_of_head)).max(1)
}

/// A tile of queries, and the softmax over the keys it has seen so far.
struct Tile {
    dim: usize,
    /// `[rows][dim]`.
    queries: Vec<f32>,
    /// `[rows][dim]`: values, mixed with the exponentials of their scores less the greatest.
    mixed: Vec<f32>,
    /// Of each row.
    softmax: Vec<Softmax>,
    /// Keys or values of a block, `[KEYS][dim]`.
    block: Vec<f32>,
    /// `[rows][KEYS]`.
    scores: Vec<f32>,
}

/// The softmax of a row over the keys that it has seen so far.
#[derive(Clone, Copy)]
struct Softmax {
    /// The greatest score.
    top: f32,
    /// The sum of the exponentials of all scores less the greatest.
    total: f32,
}

impl Tile {
    fn new(dim: usize, rows: usize) -> Self {
        Self {
            dim,
            queries: Vec::with_capacity(rows * dim),
            mixed: Vec::with_capacity(rows * dim),
            softmax: Vec::with_capacity(rows),
            block: vec![0.0; KEYS * dim],
            scores: vec![0.0; rows * KEYS],
        }
    }

    /// Begins with the rows of other queries.
    fn begin<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        self.queries.clear();
        rows.for_each(|row| self.queries.extend_from_slice(row));
        self.mixed.clear();
        self.mixed.resize(self.queries.len(), 0.0);
        let none = Softmax {
            top: f32::NEG_INFINITY,
            total: 0.0,
        };
        self.softmax.clear();
        self.softmax.resize(self.queries.len() / self.dim, none);
    }

    /// Attends to the keys and values of a head that are `seen`, at most [`KEYS`]; `mask` has a row of `keys`
    /// for each query.
    fn attend(
        &mut self,
        [k, v]: [&Reader<'_>; 2],
        head: usize,
        mask: &[u16],
        keys: usize,
        seen: Range<usize>,
    ) {
        let (dim, rows, count) = (self.dim, self.softmax.len(), seen.len());
        self.read(k, head, seen.clone());
        let queries = (self.queries.as_ptr(), [dim, 1]);
        let keys_of_block = (self.block.as_ptr(), [1, dim]);
        // SAFETY: the matrices are rows x dim, dim x count and rows x count within their buffers.
        unsafe {
            let scores = (self.scores.as_mut_ptr(), KEYS);
            product([rows, dim, count], queries, keys_of_block, 0.0, scores);
        }
        let masks = mask.chunks_exact(keys).map(|row| &row[seen.clone()]);
        let rows_of_keys = self.scores.chunks_exact_mut(KEYS).zip(masks.cycle());
        let states = self
            .softmax
            .iter_mut()
            .zip(self.mixed.chunks_exact_mut(dim));
        for ((scores, mask), (softmax, mixed)) in rows_of_keys.zip(states) {
            let old = softmax.add(&mut scores[..count], mask);
            if old != 1.0 {
                mixed.iter_mut().for_each(|value| *value *= old);
            }
        }
        self.read(v, head, seen);
        let shares = (self.scores.as_ptr(), [KEYS, 1]);
        let values = (self.block.as_ptr(), [dim, 1]);
        // SAFETY: the matrices are rows x count, count x dim and rows x dim within their buffers.
        unsafe {
            let mixed = (self.mixed.as_mut_ptr(), dim);
            product([rows, count, dim], shares, values, 1.0, mixed);
        }
    }

    /// Converts keys or values of a head.
    fn read(&mut self, stored: &Reader<'_>, head: usize, keys: Range<usize>) {
        for (key, numbers) in keys.zip(self.block.chunks_exact_mut(self.dim)) {
            stored.read([key, head], 0, numbers);
        }
    }

    /// Writes the results, in the order of the queries.
    fn finish<'a>(&self, rows: impl Iterator<Item = &'a mut [f32]>) {
        let results = self.mixed.chunks_exact(self.dim).zip(&self.softmax);
        for (out, (mixed, softmax)) in rows.zip(results) {
            let share = match softmax.total {
                0.0 => 0.0,
                total => 1.0 / total,
            };
            for (out, value) in out.iter_mut().zip(mixed) {
                *out = value * share;
            }
        }
    }
}

/// `c = a b + keep c` of `a [m, k]`, `b [k, n]` and `c [m, n]`. Numbers say how far the rows, and the
/// columns, of a matrix are apart.
///
/// # Safety
/// The matrices have these numbers of rows and columns.
unsafe fn product(
    [m, k, n]: [usize; 3],
    (a, of_a): (*const f32, [usize; 2]),
    (b, of_b): (*const f32, [usize; 2]),
    keep: f32,
    (c, of_c): (*mut f32, usize),
) {
    let ([ar, ac], [br, bc]) = (of_a.map(|n| n as isize), of_b.map(|n| n as isize));
    // SAFETY: by the contract of this function.
    unsafe {
        sgemm(
            m,
            k,
            n,
            1.0,
            a,
            ar,
            ac,
            b,
            br,
            bc,
            keep,
            c,
            of_c as isize,
            1,
        )
    };
}

/// The keys that queries of the tile see, block by block; see [`seen_of_block`].
fn seen_keys(mask: &[u16], keys: usize) -> Vec<Range<usize>> {
    let blocks = (0..keys).step_by(KEYS);
    let seen = |first: usize| seen_of_block(mask, keys, first..keys.min(first + KEYS));
    blocks.filter_map(seen).collect()
}

/// The keys from the first to the last of a block that a query of the tile sees, from a whole number
/// of lanes on; `None` if none sees any.
fn seen_of_block(mask: &[u16], keys: usize, block: Range<usize>) -> Option<Range<usize>> {
    let visible = |key: &u16| *key == VISIBLE;
    let mut seen: Option<Range<usize>> = None;
    for row in mask.chunks_exact(keys) {
        let row = &row[block.clone()];
        if let Some(first) = row.iter().position(visible) {
            let end = row.iter().rposition(visible).map_or(0, |last| last + 1);
            let before = seen.unwrap_or(first..end);
            seen = Some(before.start.min(first)..before.end.max(end));
        }
    }
    seen.map(|seen| block.start + seen.start / LANES * LANES..block.start + seen.end)
}

impl Softmax {
    /// Turns the scores of more keys into exponentials, less the greatest score so far, and adds
    /// them; returns what former exponentials are to be multiplied by.
    fn add(&mut self, scores: &mut [f32], mask: &[u16]) -> f32 {
        let top = self.top.max(greatest(scores, mask));
        // A query that has seen no key has no greatest score.
        let zero = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let old = exponential(self.top - zero);
        self.total = self.total * old + exponentials(scores, zero);
        self.top = top;
        old
    }
}

/// Hides masked scores, and returns the greatest of the others.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn greatest(scores: &mut [f32], mask: &[u16]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    for (scores, mask) in scores.chunks_mut(LANES).zip(mask.chunks(LANES)) {
        for ((score, mask), best) in scores.iter_mut().zip(mask).zip(&mut best) {
            *score = match *mask {
                VISIBLE => *score,
                _ => f32::NEG_INFINITY,
            };
            *best = if *score > *best { *score } else { *best };
        }
    }
    best.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces scores by the exponentials of their distances to `top`, and returns the sum.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn exponentials(scores: &mut [f32], top: f32) -> f32 {
    let mut totals = [0.0_f32; LANES];
    for scores in scores.chunks_mut(LANES) {
        for (score, total) in scores.iter_mut().zip(&mut totals) {
            *score = exponential(*score - top);
            *total += *score;
        }
    }
    totals.iter().sum()
}

/// e^x of a distance: 0 where that is not a normal number, NaN of NaN.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    let e = if x < -87.0 { 0.0 } else { exp(x) };
    if x.is_nan() { x } else { e }
}

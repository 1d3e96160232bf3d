//! Attention against sums in F64, and what its results do not depend on.

use std::sync::Arc;

use crate::ggml::compute::{Executor, Graph};
use crate::ggml::context::Context;
use crate::ggml::convert::{from_f32, to_f32};
use crate::ggml::device::Device;
use crate::ggml::ops::{HIDDEN, VISIBLE};
use crate::gguf::TensorType;

/// Numbers from -1 to 1 without a pattern.
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The inputs of attention. Keys and values lie in rows of all heads, as in a cache.
#[derive(Clone)]
struct Case {
    dim: usize,
    heads: usize,
    kv_heads: usize,
    ty: TensorType,
    /// `[queries][heads][dim]`
    q: Vec<f32>,
    /// `[keys][kv_heads][dim]`, as the type stores them.
    kv: [Vec<u8>; 2],
    /// `[queries][keys]`
    mask: Vec<Vec<u16>>,
}

impl Case {
    fn new(
        ty: TensorType,
        [dim, heads, kv_heads]: [usize; 3],
        [queries, keys]: [usize; 2],
        sees: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let stored = |seed| {
            let mut numbers = noise(seed, keys * kv_heads * dim);
            numbers.iter_mut().for_each(|x| *x *= 2.0);
            let mut bytes = vec![0; ty.row_bytes(numbers.len()).unwrap()];
            from_f32(ty, &numbers, dim, None, &mut bytes).unwrap();
            bytes
        };
        let row = |query| {
            let element = |key| if sees(query, key) { VISIBLE } else { HIDDEN };
            (0..keys).map(element).collect()
        };
        Self {
            dim,
            heads,
            kv_heads,
            ty,
            q: noise(1, queries * heads * dim),
            kv: [stored(2), stored(3)],
            mask: (0..queries).map(row).collect(),
        }
    }

    fn keys(&self) -> usize {
        self.mask[0].len()
    }

    fn compute(&self, threads: usize) -> Vec<f32> {
        let (dim, queries, keys) = (self.dim, self.mask.len(), self.keys());
        let device = Device::cpu().unwrap();
        let inputs = Context::new(4).unwrap();
        let q = [dim, self.heads, queries];
        let q = inputs.tensor(TensorType::F32, &q, "q").unwrap();
        let cache = [dim * self.kv_heads, keys];
        let k = inputs.tensor(self.ty, &cache, "k").unwrap();
        let v = inputs.tensor(self.ty, &cache, "v").unwrap();
        let mask = [keys, queries];
        let mask = inputs.tensor(TensorType::F16, &mask, "mask").unwrap();
        inputs.allocate(device.buffer_type(), "a test", "").unwrap();
        q.write(0, &self.q).unwrap();
        k.write(0, &self.kv[0]).unwrap();
        v.write(0, &self.kv[1]).unwrap();
        mask.write(0, &self.mask.concat()).unwrap();

        let backends = Arc::new(vec![device.backend(threads).unwrap()].into());
        let mut executor = Executor::new(&backends, 8, "test").unwrap();
        let describe = |graph: &Graph| {
            let ctx = graph.context();
            let (shape, row) = ([dim, keys, self.kv_heads], k.nb()[1]);
            let stride = [row, row / self.kv_heads];
            let (k, v) = (
                ctx.view(&k, shape, stride, 0)?,
                ctx.view(&v, shape, stride, 0)?,
            );
            let out = ctx.attention(&q, &k, &v, &mask)?.output();
            graph.add(&out);
            Ok(out)
        };
        let out = executor.load(describe, "").unwrap();
        executor.compute().unwrap();
        let mut got = vec![0.0; self.q.len()];
        out.read(0, &mut got).unwrap();
        got
    }

    /// In F64, from the numbers that are stored.
    fn expected(&self) -> Vec<f64> {
        let (dim, group) = (self.dim, self.heads / self.kv_heads);
        let [k, v] = self.kv.each_ref().map(|bytes| {
            let mut numbers = vec![0.0; self.keys() * self.kv_heads * dim];
            to_f32(self.ty, bytes, &mut numbers).unwrap();
            numbers
        });
        let mut out = Vec::new();
        for (q, mask) in self.q.chunks(self.heads * dim).zip(&self.mask) {
            for (head, q) in q.chunks(dim).enumerate() {
                let row = |numbers: &[f32], key: usize| -> Vec<f64> {
                    let first = (key * self.kv_heads + head / group) * dim;
                    numbers[first..][..dim]
                        .iter()
                        .map(|x| f64::from(*x))
                        .collect()
                };
                let visible = (0..self.keys()).filter(|key| mask[*key] == VISIBLE);
                let scored: Vec<(f64, usize)> = visible
                    .map(|key| {
                        let terms = q.iter().zip(row(&k, key));
                        (terms.map(|(q, k)| f64::from(*q) * k).sum(), key)
                    })
                    .collect();
                let top = scored.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scored.iter().map(|s| (s.0 - top).exp()).sum();
                let mut mixed = vec![0.0; dim];
                for (score, key) in scored {
                    let share = (score - top).exp() / total;
                    mixed
                        .iter_mut()
                        .zip(row(&v, key))
                        .for_each(|(to, v)| *to += share * v);
                }
                out.extend(mixed);
            }
        }
        out
    }
}

/// A canvas of `queries` at the end of the keys that sees a window before it.
fn canvas(queries: usize, keys: usize, window: usize) -> impl Fn(usize, usize) -> bool {
    move |_, key| key + queries + window >= keys
}

#[test]
fn attention_is_the_softmax_of_the_scores() {
    let cases = [
        // Blocks of keys that end anywhere, tiles of queries that do, groups of heads.
        (TensorType::F32, [32, 4, 4], [1, 1]),
        (TensorType::F32, [32, 8, 1], [9, 127]),
        (TensorType::F16, [64, 8, 4], [70, 129]),
        (TensorType::F16, [128, 8, 4], [256, 300]),
        (TensorType::F16, [256, 16, 2], [40, 256]),
        (TensorType::Q8_0, [64, 6, 2], [33, 515]),
        (TensorType::Q8_0, [512, 2, 1], [300, 301]),
    ];
    for (ty, heads, [queries, keys]) in cases {
        let causal = |query, key| key + queries <= keys + query;
        for case in [
            Case::new(ty, heads, [queries, keys], canvas(queries, keys, 33)),
            Case::new(ty, heads, [queries, keys], causal),
        ] {
            let got = case.compute(2);
            for (i, (got, want)) in got.iter().zip(case.expected()).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(
                    error < 4e-5,
                    "{ty} {heads:?} {queries} {keys} {i}: {got} {want}"
                );
            }
        }
    }
}

#[test]
fn a_result_does_not_depend_on_the_number_of_threads() {
    for shape in [[64, 8, 4], [64, 8, 1]] {
        let case = Case::new(TensorType::F16, shape, [100, 300], canvas(100, 300, 57));
        let alone = case.compute(1);
        for threads in [2, 3, 7, 16] {
            assert_eq!(case.compute(threads), alone, "{shape:?}, {threads} threads");
        }
    }
}

#[test]
fn a_result_does_not_depend_on_other_queries_and_hidden_keys() {
    let shape = [64, 8, 2];
    let width = 64 * 8;
    let causal = |query, key| key >= query && key <= query + 150;
    let whole = Case::new(TensorType::F16, shape, [90, 400], causal);
    let all = whole.compute(2);
    for query in [0, 13, 89] {
        let mut alone = whole.clone();
        alone.q = whole.q[query * width..][..width].to_vec();
        alone.mask = vec![whole.mask[query].clone()];
        assert_eq!(alone.compute(1), all[query * width..][..width], "{query}");
        // Other numbers where no query looks.
        for bytes in &mut alone.kv {
            let row = bytes.len() / 400;
            for key in (0..400).filter(|key| !causal(query, *key)) {
                bytes[key * row..][..row].fill(0x33);
            }
        }
        assert_eq!(alone.compute(1), all[query * width..][..width], "{query}");
    }
}

#[test]
fn scores_far_apart_and_no_numbers_have_their_results() {
    let shape = [32, 2, 1];
    let mut case = Case::new(TensorType::F32, shape, [20, 200], |query, _| query != 4);
    case.q[0..32].fill(1e4);
    case.q[3 * 64] = f32::NAN;
    // Of its bits an exponential by parts would make a number.
    case.q[5 * 64] = f32::from_bits(0x7fc0_0001);
    let (got, want) = (case.compute(2), case.expected());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        match i / 32 {
            6 | 10 => assert!(got.is_nan(), "{i}: {got}"),
            8 | 9 => assert_eq!(*got, 0.0, "{i}"),
            // The rounding of scores of this size decides a share.
            0 => assert!((f64::from(*got) - want).abs() < 2e-2, "{i}: {got} {want}"),
            _ => assert!((f64::from(*got) - want).abs() < 1e-5, "{i}: {got} {want}"),
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let ctx = Context::new(32).unwrap();
    let f32 = |ne: &[usize]| ctx.tensor(TensorType::F32, ne, "t").unwrap();
    let mask = |ne: &[usize]| ctx.tensor(TensorType::F16, ne, "mask").unwrap();
    let (q, kv) = (f32(&[32, 4, 6]), f32(&[32, 10, 2]));
    assert!(ctx.attention(&q, &kv, &kv, &mask(&[10, 6])).is_ok());
    for (q, k, v, mask) in [
        (&q, &kv, &kv, mask(&[10, 5])),
        (&q, &kv, &kv, f32(&[10, 6])),
        (&f32(&[32, 5, 6]), &kv, &kv, mask(&[10, 6])),
        (&f32(&[64, 4, 6]), &kv, &kv, mask(&[10, 6])),
        (&q, &kv, &f32(&[32, 11, 2]), mask(&[10, 6])),
        (&q, &f32(&[32, 10, 1]), &kv, mask(&[10, 6])),
    ] {
        assert!(ctx.attention(q, k, v, &mask).is_err());
    }
}

//! Both products in every kind of row, against sums in F64.

use crate::ggml::compute::{Executor, Graph};
use crate::ggml::context::Context;
use crate::ggml::convert::to_f32;
use crate::ggml::device::Device;
use crate::ggml::kernels::draw::WEIGHT_SCALE;
use crate::ggml::kernels::products::{mixing, sets};
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;
use std::sync::Arc;

const D: usize = 512;
/// More rows than are multiplied together.
const VOCAB: usize = 600;
const POSITIONS: usize = 5;
/// The weight above which a sparse mixture keeps a token.
const LIMIT: f32 = 1e-6 / VOCAB as f32 * WEIGHT_SCALE;

const TYPES: [TensorType; 8] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Q4_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// All positions but the fifth have weights of all sizes; that has only some near the limit.
fn weights(positions: usize) -> Vec<f32> {
    (0..VOCAB * positions)
        .map(|i| match (i / VOCAB == POSITIONS - 1, i % 7 == 0) {
            (true, true) => 1.01 * LIMIT,
            (true, false) => 0.99 * LIMIT,
            (false, true) => (i % 11) as f32 * 3e3,
            (false, false) => 1e-6,
        })
        .collect()
}

/// What a kernel computes of a table of this type with rows of `d`, and the table's numbers.
fn mix(
    ty: TensorType,
    d: usize,
    positions: usize,
    threads: usize,
    product: impl Fn(&Context, &Tensor, &Tensor) -> crate::error::Result<Tensor>,
) -> (Vec<f32>, Vec<f32>) {
    let device = Device::cpu().unwrap();
    let inputs = Context::new(2).unwrap();
    let table = inputs.tensor(ty, &[d, VOCAB], "table").unwrap();
    let p = inputs
        .tensor(TensorType::F32, &[VOCAB, positions], "weights")
        .unwrap();
    inputs.allocate(device.buffer_type(), "a test", "").unwrap();
    // Small exponents of F16 scales: all bytes that follow are finite numbers.
    let bytes: Vec<u8> = (0..table.nbytes()).map(|i| (i * 37 % 60) as u8).collect();
    table.write(0, &bytes).unwrap();
    p.write(0, &weights(positions)).unwrap();
    let mut numbers = vec![0.0; d * VOCAB];
    to_f32(ty, &bytes, &mut numbers).unwrap();

    let backends = Arc::new(vec![device.backend(threads).unwrap()].into());
    let mut executor = Executor::new(&backends, 8, "test").unwrap();
    let describe = |graph: &Graph| {
        let mixture = product(graph.context(), &table, &p)?.output();
        graph.add(&mixture);
        Ok(mixture)
    };
    let mixture = executor.load(describe, "").unwrap();
    executor.compute().unwrap();
    let mut got = vec![0.0; d * positions];
    mixture.read(0, &mut got).unwrap();
    (got, numbers)
}

/// Compares with the sums of the terms whose weight is above `least`; the error may be `limit` times
/// the sum of the terms' sizes.
fn check(ty: TensorType, got: &[f32], numbers: &[f32], least: f32, limit: f64) {
    let weights = weights(POSITIONS);
    for (position, got) in got.chunks(D).enumerate() {
        let p = &weights[position * VOCAB..][..VOCAB];
        for (i, &got) in got.iter().enumerate() {
            let terms = p.iter().enumerate().filter(|(_, p)| **p > least);
            let (mut want, mut size) = (0.0, 0.0);
            for (token, &p) in terms {
                let term = f64::from(p) * f64::from(numbers[token * D + i]);
                want += term;
                size += term.abs();
            }
            let error = (f64::from(got) - want).abs();
            assert!(error <= limit * size, "{ty}, {position}, {i}: {got} {want}");
        }
    }
}

#[test]
fn a_dense_mixture_is_the_sum_of_all_rows() {
    for ty in TYPES {
        // Rounding to BF16 changes a weight and a number by at most 2^-8 of itself; integers by
        // 2^-13 of the greatest of their group.
        let rounds = mixing(ty).is_some() && ty != TensorType::F16;
        let limit = if rounds { 2.02 / 256.0 } else { 1e-3 };
        let mut mixes = vec![(mixing(ty), limit), (&None, 1e-5)];
        if rounds {
            // On this processor, and with the tiles of others.
            mixes.extend(sets().iter().map(|set| (&set.mix_bf16, limit)));
        }
        for (by, limit) in mixes {
            let dense = |context: &Context, table: &Tensor, weights: &Tensor| {
                context.dense_mixture_by(by, table, weights)
            };
            let (got, numbers) = mix(ty, D, POSITIONS, 1, dense);
            check(ty, &got, &numbers, 0.0, limit);
            for threads in [2, 3] {
                let (other, _) = mix(ty, D, POSITIONS, threads, dense);
                assert_eq!(got, other, "{ty}, {threads} threads");
            }
        }
    }
}

/// Tiles of positions and columns may be whole or not.
#[test]
fn a_dense_mixture_does_not_depend_on_other_positions_or_threads() {
    /// Divided among 3 or 5 threads, columns end within a tile.
    const D: usize = 544;
    for set in sets() {
        let by: &'static Option<_> = match set.mix_bf16.is_some() {
            true => &set.mix_bf16,
            false => &set.mix_integers,
        };
        let dense = |context: &Context, table: &Tensor, weights: &Tensor| {
            context.dense_mixture_by(by, table, weights)
        };
        let (all, _) = mix(TensorType::Q8_0, D, 85, 1, dense);
        for (positions, threads) in [(85, 3), (85, 5), (64, 1), (40, 2), (16, 3), (5, 1)] {
            let (got, _) = mix(TensorType::Q8_0, D, positions, threads, dense);
            assert!(
                got == all[..got.len()],
                "{}: {positions}, {threads}",
                set.name
            );
        }
    }
}

#[test]
fn a_sparse_mixture_is_the_sum_of_the_rows_that_it_keeps() {
    for ty in TYPES {
        let (got, numbers) = mix(ty, D, POSITIONS, 2, Context::sparse_mixture);
        check(ty, &got, &numbers, LIMIT, 1e-5);
    }
}

//! The operations against sums in F64.

use super::*;
use crate::ggml::compute::{Executor, Graph};
use crate::ggml::context::Context;
use crate::ggml::convert::{from_f32, to_f32};
use crate::ggml::device::Device;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;
use std::sync::Arc;

const TYPES: [TensorType; 8] = [
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Q4_0,
    TensorType::Q5_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// The sets of instructions of this processor, and AMX as the emulator has it.
pub(in super::super) fn sets() -> Vec<&'static Instructions> {
    let mut sets = Instructions::of_this_processor().to_vec();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if sets.first().is_some_and(|best| best.name == "avx512_bf16") {
        avx512::amx::emulator::install();
        sets.push(&avx512::amx::INSTRUCTIONS);
    }
    sets
}

/// The types that the kernels multiply on this processor, with each set of instructions.
fn kernels() -> impl Iterator<Item = (&'static Instructions, TensorType)> {
    let all = sets().into_iter();
    let with_types = all.flat_map(|set| TYPES.into_iter().map(move |ty| (set, ty)));
    with_types.filter(|(_, ty)| Instructions::of_experts(*ty, 256).is_some())
}

/// Rows of whole blocks that end inside a block of activations, and beyond a panel, if the type
/// allows that.
fn lengths(ty: TensorType) -> [usize; 2] {
    match ty.block_len() {
        256 => [256, 1280],
        _ => [96, 1056],
    }
}

/// Numbers between -1 and 1.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Matrices of experts as stored, and as numbers.
struct Weights {
    ty: TensorType,
    /// Elements of a row, rows, experts.
    ne: [usize; 3],
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}

impl Weights {
    fn new(ty: TensorType, ne: [usize; 3], seed: u32) -> Self {
        Self::of(ty, ne, &noise(seed, ne.iter().product()))
    }

    /// These numbers, rounded to the type.
    fn of(ty: TensorType, ne: [usize; 3], values: &[f32]) -> Self {
        let mut bytes = vec![0; ty.row_bytes(ne[0]).unwrap() * ne[1] * ne[2]];
        from_f32(ty, values, ne[0], None, &mut bytes).unwrap();
        let mut numbers = vec![0.0; values.len()];
        to_f32(ty, &bytes, &mut numbers).unwrap();
        Self {
            ty,
            ne,
            bytes,
            numbers,
        }
    }

    /// In F64 one matrix times a vector.
    fn times(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let [k, rows, _] = self.ne;
        let matrix = &self.numbers[expert * k * rows..][..k * rows];
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        matrix.chunks(k).map(dot).collect()
    }
}

/// Routes: the experts of each token.
struct Chosen {
    used: usize,
    numbers: Vec<i32>,
}

impl Chosen {
    fn tokens(&self) -> usize {
        self.numbers.len() / self.used
    }

    /// Of 7 experts: all tokens at one; one token; some experts with one or no token.
    fn cases() -> [Self; 3] {
        let spread = |i: i32| {
            if i % 2 == 0 {
                i / 2 % 3
            } else {
                3 + i / 2 % 17 / 15
            }
        };
        [
            Self {
                used: 1,
                numbers: vec![4; 8],
            },
            Self {
                used: 2,
                numbers: vec![6, 0],
            },
            Self {
                used: 2,
                numbers: (0..38).map(spread).collect(),
            },
        ]
    }
}

const EXPERTS: usize = 7;

/// The inputs of an operation.
struct Inputs {
    weights: Vec<Tensor>,
    /// F32.
    x: Tensor,
    chosen: Tensor,
    share: Tensor,
}

/// Computes the node that `build` describes. `x` has `width` elements per row.
fn compute(
    threads: usize,
    weights: &[&Weights],
    x: (&[f32], &[usize]),
    chosen: &Chosen,
    share: &[f32],
    build: impl Fn(&Context, &Inputs) -> crate::Result<Tensor>,
) -> Vec<f32> {
    let device = Device::cpu().unwrap();
    let context = Context::new(3 + weights.len()).unwrap();
    let routed = [chosen.used, chosen.tokens()];
    let described = weights
        .iter()
        .map(|w| context.tensor(w.ty, &w.ne, "weights").unwrap());
    let inputs = Inputs {
        weights: described.collect(),
        x: context.tensor(TensorType::F32, x.1, "x").unwrap(),
        chosen: context.tensor(TensorType::I32, &routed, "chosen").unwrap(),
        share: context.tensor(TensorType::F32, &routed, "share").unwrap(),
    };
    context
        .allocate(device.buffer_type(), "a test", "")
        .unwrap();
    for (tensor, weights) in inputs.weights.iter().zip(weights) {
        tensor.write(0, &weights.bytes).unwrap();
    }
    inputs.x.write(0, x.0).unwrap();
    inputs.chosen.write(0, &chosen.numbers).unwrap();
    inputs.share.write(0, share).unwrap();
    let backends = Arc::new(vec![device.backend(threads).unwrap()].into());
    let mut executor = Executor::new(&backends, 16, "test").unwrap();
    let describe = |graph: &Graph| {
        let node = build(graph.context(), &inputs)?.output();
        graph.add(&node);
        Ok(node)
    };
    let node = executor.load(describe, "").unwrap();
    executor.compute().unwrap();
    let mut out = vec![0.0; node.ne().iter().product()];
    node.read(0, &mut out).unwrap();
    out
}

/// The output of the only expert for one token.
fn one_output(own: &'static Instructions, weights: &Weights, x: &[f32]) -> Vec<f32> {
    let chosen = Chosen {
        used: 1,
        numbers: vec![0],
    };
    let of_row = (x, &[x.len(), 1, 1][..]);
    compute(1, &[weights], of_row, &chosen, &[1.0], |ctx, inputs| {
        let down = &inputs.weights[0];
        ctx.experts_output(own, down, &inputs.x, &inputs.chosen, &inputs.share)
    })
}

/// Root of the mean squared difference, relative to that of `want`.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = squares(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - w));
    (difference / squares(&mut want.iter().copied())).sqrt()
}

/// The error that the operations may have.
fn limit(own: &Instructions, ty: TensorType) -> f64 {
    match ty {
        // Weights and activations have 8 bits and an exponent.
        _ if own.name == "amx_bf16" && ty != TensorType::F16 => 2e-3,
        // Activations have 8 bits.
        TensorType::BF16 if own.mix_bf16.is_some() => 2e-3,
        // Weights and activations have 14 bits.
        TensorType::F16 | TensorType::BF16 if own.has_wide_vectors => 1.5e-4,
        TensorType::F16 | TensorType::BF16 => 5e-7,
        // Activations have 8 bits.
        _ if own.has_wide_vectors => 5e-3,
        // Activations have 15 bits.
        _ => 5e-5,
    }
}

fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * inner).exp())
}

#[test]
fn the_hidden_layer_is_that_of_f64_with_any_number_of_threads() {
    const HIDDEN: usize = 37;
    for ((own, ty), chosen) in kernels().flat_map(|k| Chosen::cases().map(|chosen| (k, chosen))) {
        for k in lengths(ty) {
            let [gate, up] = [1, 2].map(|seed| Weights::new(ty, [k, HIDDEN, EXPERTS], seed));
            let x = noise(3, k * chosen.tokens());
            let mut want = Vec::new();
            for (route, expert) in chosen.numbers.iter().enumerate() {
                let x = &x[route / chosen.used * k..][..k];
                let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let ups = up.times(*expert as usize, &x);
                let gates = gate.times(*expert as usize, &x);
                want.extend(gates.iter().zip(ups).map(|(g, u)| gelu(*g) * u));
            }
            let share = vec![0.0; chosen.numbers.len()];
            let x = (x.as_slice(), &[k, chosen.tokens()][..]);
            let run = |threads| {
                compute(threads, &[&gate, &up], x, &chosen, &share, |ctx, inputs| {
                    let first = FirstMatrices::Split(&inputs.weights[0], &inputs.weights[1]);
                    ctx.experts_hidden(own, &first, &inputs.x, &inputs.chosen)
                })
            };
            let got = run(1);
            let error = error(&got, &want);
            assert!(
                error < 2.0 * limit(own, ty),
                "{}, {ty}, {k}: {error}",
                own.name
            );
            assert_eq!(run(3), got, "{}, {ty}", own.name);
            let row = gate.bytes.len() / EXPERTS;
            let pairs = gate.bytes.chunks(row).zip(up.bytes.chunks(row));
            let both = Weights {
                ty,
                ne: [k, 2 * HIDDEN, EXPERTS],
                bytes: pairs.flat_map(|(gate, up)| [gate, up].concat()).collect(),
                numbers: Vec::new(),
            };
            let fused = compute(2, &[&both], x, &chosen, &share, |ctx, inputs| {
                let first = FirstMatrices::Fused(&inputs.weights[0]);
                ctx.experts_hidden(own, &first, &inputs.x, &inputs.chosen)
            });
            assert_eq!(fused, got, "{}, {ty}", own.name);
        }
    }
}

#[test]
fn the_output_is_that_of_f64_with_any_number_of_threads() {
    for ((own, ty), chosen) in kernels().flat_map(|k| Chosen::cases().map(|chosen| (k, chosen))) {
        // More strips than are multiplied together, with one of the types.
        let d = if ty == TensorType::Q8_0 { 277 } else { 37 };
        for k in lengths(ty) {
            let down = Weights::new(ty, [k, d, EXPERTS], 1);
            let hidden = noise(2, k * chosen.numbers.len());
            let share = noise(3, chosen.numbers.len());
            let mut want = vec![0.0; d * chosen.tokens()];
            for (route, expert) in chosen.numbers.iter().enumerate() {
                let x = hidden[route * k..][..k].iter();
                let x: Vec<f64> = x.map(|x| f64::from(*x)).collect();
                let sums = want[route / chosen.used * d..].iter_mut();
                for (sum, y) in sums.zip(down.times(*expert as usize, &x)) {
                    *sum += f64::from(share[route]) * y;
                }
            }
            let x = (hidden.as_slice(), &[k, chosen.used, chosen.tokens()][..]);
            let run = |threads| {
                compute(threads, &[&down], x, &chosen, &share, |ctx, inputs| {
                    let down = &inputs.weights[0];
                    ctx.experts_output(own, down, &inputs.x, &inputs.chosen, &inputs.share)
                })
            };
            let got = run(1);
            let error = error(&got, &want);
            assert!(
                error < 2.0 * limit(own, ty),
                "{}, {ty}, {k}: {error}",
                own.name
            );
            for threads in [2, 5] {
                assert_eq!(run(threads), got, "{}, {ty}", own.name);
            }
        }
    }
}

#[test]
fn a_dense_product_is_that_of_f64_with_any_number_of_inputs_and_threads() {
    const M: usize = 37;
    for (own, ty) in kernels().filter(|(_, ty)| Instructions::of_dense(*ty, 256).is_some()) {
        for (k, n) in lengths(ty)
            .into_iter()
            .flat_map(|k| [1, 3, 29, 128, 183].map(|n| (k, n)))
        {
            let weights = Weights::new(ty, [k, M, 1], 1);
            let x = noise(2, k * n);
            let mut want = Vec::new();
            for row in x.chunks(k) {
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                want.extend(weights.times(0, &row));
            }
            let run = |threads, n: usize| {
                let (chosen, share) = (
                    Chosen {
                        used: 1,
                        numbers: vec![0; n],
                    },
                    vec![0.0; n],
                );
                let x = (&x[..k * n], &[k, n][..]);
                compute(threads, &[&weights], x, &chosen, &share, |ctx, inputs| {
                    ctx.dense_product(own, &inputs.weights[0], &inputs.x)
                })
            };
            let got = run(1, n);
            let error = error(&got, &want);
            assert!(
                error < 2.0 * limit(own, ty),
                "{}, {ty}, {k}: {error}",
                own.name
            );
            assert_eq!(run(3, n), got, "{}, {ty}", own.name);
            assert_eq!(run(2, 1), got[..M], "{}, {ty}", own.name);
        }
    }
}

#[test]
fn products_are_more_exact_than_those_of_ggml() {
    const D: usize = 32;
    const K: usize = 512;
    const TOKENS: usize = 12;
    for (own, ty) in kernels() {
        let weights = Weights::new(ty, [K, D, EXPERTS], 1);
        let numbers: Vec<i32> = (0..TOKENS as i32).map(|t| t * 3 % 7).collect();
        let chosen = Chosen { used: 1, numbers };
        // Activations have outliers.
        let mut x = noise(2, K * TOKENS);
        x.iter_mut().step_by(100).for_each(|x| *x *= 30.0);
        let want: Vec<f64> = chosen
            .numbers
            .iter()
            .zip(x.chunks(K))
            .flat_map(|(expert, x)| {
                let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                weights.times(*expert as usize, &x)
            })
            .collect();
        let (x, share) = ((x.as_slice(), &[K, 1, TOKENS][..]), [1.0; TOKENS]);
        let [ours, ggml] = [true, false].map(|ours| {
            let got = compute(1, &[&weights], x, &chosen, &share, |ctx, inputs| {
                let (down, x) = (&inputs.weights[0], &inputs.x);
                match ours {
                    true => ctx.experts_output(own, down, x, &inputs.chosen, &inputs.share),
                    false => ctx.mul_mat_id(down, x, &inputs.chosen),
                }
            });
            error(&got, &want)
        });
        // ggml rounds to BF16 as well, and adds in another order.
        let same = ty == TensorType::BF16 && own.mix_bf16.is_some();
        let most = if same { 1.0001 * ggml } else { ggml };
        assert!(ours <= most, "{}, {ty}: {ours} and {ggml}", own.name);
    }
}

#[test]
fn activations_that_are_not_finite_remain_so_and_zeros_give_zero() {
    for (own, ty) in kernels() {
        let weights = Weights::new(ty, [256, 5, EXPERTS], 1);
        let chosen = Chosen {
            used: 1,
            numbers: vec![2; 4],
        };
        let mut x = vec![0.0; 4 * 256];
        x[256 + 70] = f32::NAN;
        x[2 * 256 + 255] = f32::INFINITY;
        x[3 * 256..].fill(1e-35);
        let x = (x.as_slice(), &[256, 1, 4][..]);
        let got = compute(2, &[&weights], x, &chosen, &[1.0; 4], |ctx, inputs| {
            ctx.experts_output(
                own,
                &inputs.weights[0],
                &inputs.x,
                &inputs.chosen,
                &inputs.share,
            )
        });
        assert!(
            got[..5].iter().all(|y| *y == 0.0),
            "{}, {ty}: {got:?}",
            own.name
        );
        assert!(
            got[5..15].iter().all(|y| !y.is_finite()),
            "{}, {ty}: {got:?}",
            own.name
        );
        assert!(
            got[15..].iter().all(|y| y.abs() < 1e-30),
            "{}, {ty}: {got:?}",
            own.name
        );
    }
}

#[test]
fn floats_of_all_sizes_are_multiplied_and_those_that_are_not_finite_remain_so() {
    const K: usize = 64;
    for ty in [TensorType::F16, TensorType::BF16] {
        for (own, _) in kernels().filter(|(_, other)| *other == ty) {
            // Rows of large, small (in F16 subnormal) and equal numbers, of one number among zeros, of none,
            // and of the greatest of the type.
            let (least, large, greatest) = match ty {
                TensorType::F16 => (6e-8, 6e4, 65_504.0),
                _ => (1e-30, 1e36, 3.38e38),
            };
            let noise = noise(4, K);
            let mut rows = vec![vec![0.0; K]; 8];
            for (i, x) in noise.iter().enumerate() {
                rows[0][i] = x * large;
                rows[1][i] = (x * 9.0).round() * least;
                rows[2][i] = -0.75;
            }
            rows[3][40] = -least;
            rows[5][K - 1] = f32::NEG_INFINITY;
            rows[6][0] = f32::NAN;
            (rows[7][3], rows[7][4]) = (greatest, -greatest);
            let weights = Weights::of(ty, [K, rows.len(), 1], &rows.concat());
            let x: Vec<f32> = noise.iter().map(|x| 0.25 * (1.0 + x)).collect();
            let got = one_output(own, &weights, &x);
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (row, want) in weights.times(0, &x).into_iter().enumerate() {
                let got = got[row];
                let size: f64 = weights.numbers[row * K..][..K]
                    .iter()
                    .zip(&x)
                    .map(|(w, x)| (f64::from(*w) * x).abs())
                    .sum();
                match row {
                    5 | 6 => assert!(!got.is_finite(), "{}, {ty}, {row}: {got}", own.name),
                    _ => {
                        let error = (f64::from(got) - want).abs();
                        let limit = 2.0 * limit(own, ty) * size;
                        assert!(error <= limit, "{}, {ty}, {row}: {got} {want}", own.name);
                    }
                }
            }
        }
    }
}

/// Weights between two integers, as these are with one weight of 1, are rounded without an error that has
/// one sign.
#[test]
fn ties_are_rounded_alike_for_both_signs() {
    const K: usize = 64;
    const COUNT: usize = 31;
    // Units of the integers are 2^-12 in these kernels, as 1 is 2^12 of them.
    let ties: Vec<f32> = (0..COUNT).map(|i| (2 * i + 1) as f32 / 8192.0).collect();
    for (own, ty) in kernels().filter(|(_, ty)| *ty == TensorType::F16) {
        let mut rows = vec![vec![0.0_f32; K]; 2];
        for (row, sign) in rows.iter_mut().zip([1.0, -1.0]) {
            row[0] = 1.0;
            for (weight, tie) in row[1..].iter_mut().zip(&ties) {
                *weight = sign * tie;
            }
        }
        let weights = Weights::of(ty, [K, rows.len(), 1], &rows.concat());
        let got = one_output(own, &weights, &[1.0; K]);
        // Ties up to even and ties down to even cancel, but for the last one.
        let sum = f64::from(ties.iter().sum::<f32>());
        for (got, sign) in got.iter().zip([1.0, -1.0]) {
            let error = (f64::from(*got) - (1.0 + sign * sum)).abs();
            assert!(
                error <= 1.5 / 8192.0,
                "{}: {got}, sign {sign}: {error:e}",
                own.name
            );
        }
    }
}

#[test]
fn few_inputs_are_multiplied_without_tiles() {
    for own in sets() {
        let few = own.for_inputs(16);
        assert_eq!(few.name == own.name, own.name != "amx_bf16");
        assert_eq!(own.for_inputs(64).name, own.name);
    }
}

#[test]
fn matrices_that_do_not_fit_are_refused() {
    let context = Context::new(16).unwrap();
    let tensor = |ty, ne: &[usize]| context.tensor(ty, ne, "t").unwrap();
    let f32s = |ne: &[usize]| tensor(TensorType::F32, ne);
    let gate = tensor(TensorType::Q8_0, &[64, 8, 4]);
    let (x, chosen) = (f32s(&[64, 3]), tensor(TensorType::I32, &[2, 3]));
    let first = FirstMatrices::Split(&gate, &gate);
    // Without memory: the kernels read only that of the host.
    assert!(context.expert_instructions(&first, &gate, 2).is_none());
    for (ty, k) in [
        (TensorType::F16, 33),
        (TensorType::F32, 64),
        (TensorType::I8, 64),
    ] {
        assert!(Instructions::of_experts(ty, k).is_none());
    }
    let Some(own) = Instructions::of_experts(TensorType::Q8_0, 64) else {
        return; // a processor without kernels
    };
    assert!(context.experts_hidden(own, &first, &x, &chosen).is_err());
    assert!(context.dense_product(own, &gate, &x).is_err());
    let memory = Device::cpu().unwrap().buffer_type();
    context.allocate(memory, "a test", "").unwrap();
    // Several matrices.
    assert!(context.dense_product(own, &gate, &x).is_err());
    assert!(context.expert_instructions(&first, &gate, 2).is_some());
    let described = Context::new(8).unwrap();
    for (x, fits) in [(&x, true), (&gate, false)] {
        let node = described.experts_hidden(own, &first, x, &chosen);
        assert_eq!(node.is_ok(), fits);
    }
}

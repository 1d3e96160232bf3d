//! Products with the chosen experts on the CPU: our kernels, ggml's, and ggml's product with a
//! matrix of one expert.
//!
//! `cargo bench --bench experts`. Ids carry kernel or instruction set, type, tokens and experts; one
//! thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::measure::{ExpertKernel, ExpertProduct, ExpertShape};

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

fn experts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("experts");
    group.sample_size(10);
    for ty in TYPES {
        for tokens in [64, 256] {
            for (used, experts) in [(4, 16), (8, 128), (2, 8)] {
                let shape = ExpertShape {
                    k: 1024,
                    rows: 256,
                    experts,
                    used,
                    tokens,
                };
                group.throughput(Throughput::Elements(shape.operations() as u64));
                let own = ExpertKernel::instructions().map(|set| (set, ExpertKernel::Own(set)));
                let peers = [("ggml", ExpertKernel::Ggml), ("dense", ExpertKernel::Dense)];
                for (name, kernel) in own.chain(peers) {
                    let Some(mut product) = ExpertProduct::new(kernel, ty, &shape, 1).unwrap()
                    else {
                        continue;
                    };
                    let id = BenchmarkId::new(name, format!("{ty}/{tokens}/{used}of{experts}"));
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| product.compute().unwrap());
                    });
                }
            }
        }
    }
}

criterion_group!(benches, experts);
criterion_main!(benches);

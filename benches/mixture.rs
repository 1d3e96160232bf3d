//! Self-conditioning's product on the CPU: our kernel, ggml's product with a transposed copy in F16,
//! and the product of the output head, which has as many operations.
//!
//! `cargo bench --bench mixture`. Ids carry kernel and type; one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::measure::{MixtureKernel, MixtureProduct, MixtureShape};

fn mixture(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mixture");
    group.sample_size(10);
    let shape = MixtureShape {
        d: 768,
        vocab: 16384,
        positions: 256,
    };
    group.throughput(Throughput::Elements(shape.operations() as u64));
    for ty in [
        TensorType::F16,
        TensorType::Q8_0,
        TensorType::Q6_K,
        TensorType::Q4_K,
    ] {
        for (name, kernel) in [
            ("own", MixtureKernel::Own),
            ("transposed", MixtureKernel::Transposed),
            ("head", MixtureKernel::Head),
        ] {
            let mut product = MixtureProduct::new(kernel, ty, &shape, 1).unwrap();
            group.bench_function(BenchmarkId::new(name, ty), |bencher| {
                bencher.iter(|| product.compute().unwrap());
            });
        }
    }
}

criterion_group!(benches, mixture);
criterion_main!(benches);

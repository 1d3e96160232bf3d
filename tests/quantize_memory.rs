//! The peak of resident memory while a model is quantized, in a process of its own.

#![cfg(target_os = "linux")]

use std::ops::ControlFlow;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::quantize::{FileType, Plan, QuantizeParams};
use llama_diffusion_testing::process::status;

/// A file of 147 MiB, of which an embedding of 64 MiB is the largest tensor.
#[test]
fn memory_does_not_grow_with_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let [input, output] = ["model.gguf", "out.gguf"].map(|name| dir.path().join(name));
    let geometry = Geometry {
        vocab_size: 32_768,
        d: 512,
        d_expert: 256,
        n_experts: 16,
        ..Geometry::tiny()
    };
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&input, &geometry, types, 1).unwrap();
    let largest = geometry.vocab_size * geometry.d * 4;
    for threads in [1, 2] {
        let params = QuantizeParams {
            threads: Some(threads),
            ..QuantizeParams::new(FileType::Q4_K_M)
        };
        // Writing the model took memory too: 5 resets the peak (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS");
        let plan = Plan::new(&input, params).unwrap();
        plan.write(&output, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let growth = status("VmHWM").saturating_sub(before);
        println!(
            "{threads} threads: {} MiB more at the peak; the file {}, its largest tensor {}",
            growth >> 20,
            plan.bytes().0 >> 20,
            largest >> 20
        );
        // A slab of the old file and of the new one for each thread, not a tensor.
        assert!(growth < largest / 2, "{growth} bytes, {threads} threads");
    }
}

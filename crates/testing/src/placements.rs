//! The devices under test, and the placements of a model on them.
//!
//! `DIFFUSION_TEST_DEVICE` names the device, such as `Vulkan0` or `CUDA0`, or its RPC server, such
//! as `127.0.0.1:50052`; several names are separated by commas, and models are also distributed
//! over them. Without it, tests run on the CPU.

use std::sync::LazyLock;

use llama_diffusion::{Device, ModelParams, RPC_TIMEOUT, TensorOverride};

/// The devices under test.
pub static DEVICES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = std::env::var("DIFFUSION_TEST_DEVICE").unwrap_or("CPU".into());
    let device = |name: &str| match name.contains(':') {
        true => Device::add_rpc_server(name, RPC_TIMEOUT).unwrap()[0].name(),
        false => name.into(),
    };
    names.split(',').map(|name| device(name.trim())).collect()
});

pub fn is_cpu() -> bool {
    let device = Device::by_name(&DEVICES[0]).unwrap();
    !device.is_gpu()
}

/// All of a model on the first device.
pub fn on_device() -> ModelParams {
    ModelParams {
        devices: Some(vec![DEVICES[0].clone()]),
        ..ModelParams::default()
    }
}

pub fn on_cpu() -> ModelParams {
    ModelParams {
        devices: Some(Vec::new()),
        ..ModelParams::default()
    }
}

/// Every placement of a model, by name.
pub fn placements() -> Vec<(&'static str, ModelParams)> {
    let mut all = vec![("all layers", on_device())];
    if is_cpu() {
        return all;
    }
    let layers = |count| ModelParams {
        gpu_layers: Some(count),
        ..on_device()
    };
    all.extend([
        ("one layer", layers(1)),
        ("half", layers(3)),
        (
            "experts on the CPU",
            ModelParams {
                cpu_moe_layers: usize::MAX,
                ..on_device()
            },
        ),
        (
            "experts computed by the CPU",
            ModelParams {
                cpu_moe_layers: usize::MAX,
                no_op_offload: true,
                ..on_device()
            },
        ),
        (
            "gate and up by override",
            ModelParams {
                overrides: vec![TensorOverride {
                    pattern: "ffn_gate_up_exps".parse().unwrap(),
                    memory: "CPU".into(),
                }],
                ..on_device()
            },
        ),
        (
            "no KV offload",
            ModelParams {
                kv_on_host: true,
                ..on_device()
            },
        ),
    ]);
    if DEVICES.len() > 1 {
        let devices = Some(DEVICES.clone());
        let params = ModelParams {
            devices,
            split: vec![1.0; DEVICES.len()],
            ..ModelParams::default()
        };
        all.push(("shared", params));
    }
    all
}

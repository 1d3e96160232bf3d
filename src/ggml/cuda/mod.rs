//! The CUDA kernel between the logits and the drawn tokens (`draw.cu`). It is part of ggml's CUDA
//! backend as this crate builds it, so that it runs on the stream of a backend after its graph.

use std::ffi::c_int;

use super::backend::Backend;
use super::device::Device;
use super::kernels::DRAW_PLANES;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// `llama_diffusion_cuda_draw`: backend; logits, uniforms, scalars and draws on its device;
/// vocabulary and positions. Returns a `cudaError_t`.
type DrawFunction = unsafe extern "C" fn(
    sys::ggml_backend_t,
    *const f32,
    *const f32,
    *const f32,
    *mut f32,
    c_int,
    c_int,
) -> c_int;

/// The kernel, if the CUDA backend has it.
#[derive(Clone, Copy)]
pub(crate) struct CudaDraw(DrawFunction);

impl CudaDraw {
    /// The kernel for this device; `None` if it is not a CUDA device, or its backend was built
    /// without the kernel.
    pub(crate) fn of(device: Device) -> Option<Self> {
        if device.registry() == "CUDA" {
            find(device).map(Self)
        } else {
            None
        }
    }

    /// Queues what [`Context::draw`](super::context::Context::draw) does, with the same operands.
    /// Of `logits [vocab, T]` it takes the positions from `first` on.
    pub(crate) fn queue(
        self,
        backend: &Backend,
        into: &Tensor,
        logits: &Tensor,
        first: usize,
        uniforms: &Tensor,
        scalars: &Tensor,
    ) -> Result<()> {
        let ([vocab, all, ..], [positions, ..]) = (logits.ne(), uniforms.ne());
        let memory = backend.device().buffer_type();
        let plain = |t: &Tensor| {
            t.is(TensorType::F32) && t.is_contiguous() && t.buffer_type() == Some(memory)
        };
        let fits = [into, logits, uniforms, scalars].into_iter().all(plain)
            && first + positions <= all
            && vocab <= i32::MAX as usize
            && scalars.ne()[0] == 2
            && into.ne()[0] == (vocab + DRAW_PLANES) * positions;
        if !fits {
            return Err(Error::Ggml(format!(
                "the draw on {}: {}, {}, {} and {} do not fit",
                backend.device().name(),
                into.label(),
                logits.label(),
                uniforms.label(),
                scalars.label()
            )));
        }
        let data = |t: &Tensor| t.desc().data.cast::<f32>();
        // SAFETY: shapes, types and memory were checked above. The kernel is queued after the
        // operations that compute the logits.
        let status = unsafe {
            (self.0)(
                backend.raw.as_ptr(),
                data(logits).wrapping_add(vocab * first),
                data(uniforms),
                data(scalars),
                data(into),
                vocab as c_int,
                positions as c_int,
            )
        };
        if status == 0 {
            Ok(())
        } else {
            Err(Error::device(
                backend.device().name(),
                format!("the draw failed with CUDA's error {status}"),
            ))
        }
    }
}

/// Linked with the backend.
#[cfg(all(feature = "cuda", not(feature = "dynamic-backends")))]
fn find(_: Device) -> Option<DrawFunction> {
    unsafe extern "C" {
        fn llama_diffusion_cuda_draw(
            backend: sys::ggml_backend_t,
            logits: *const f32,
            uniforms: *const f32,
            scalars: *const f32,
            draws: *mut f32,
            vocab: c_int,
            positions: c_int,
        ) -> c_int;
    }
    Some(llama_diffusion_cuda_draw)
}

/// In the plug-in that registered the device: a symbol of the library that holds a function of it.
#[cfg(all(unix, feature = "dynamic-backends"))]
fn find(device: Device) -> Option<DrawFunction> {
    let inside = device.procedure(c"ggml_backend_get_features")?;
    // SAFETY: `dladdr` fills a plain struct. The library is loaded, `RTLD_NOLOAD` only finds it; it
    // stays loaded as long as its devices are registered. The symbol has this type (draw.cu).
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(inside.as_ptr(), &mut info) == 0 {
            return None;
        }
        let library = libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let symbol = libc::dlsym(library, c"llama_diffusion_cuda_draw".as_ptr());
        libc::dlclose(library);
        (!symbol.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, DrawFunction>(symbol))
    }
}

/// This build has no CUDA backend, or no way to look into it: ggml's operations draw.
#[cfg(not(any(
    all(feature = "cuda", not(feature = "dynamic-backends")),
    all(unix, feature = "dynamic-backends")
)))]
fn find(_: Device) -> Option<DrawFunction> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::super::kernels::{RowDraw, WEIGHT_SCALE, draw_row_alone};

    const CAP: f32 = 30.0;
    const TEMPERATURE: f32 = 0.7;

    /// The draws of the kernel, compiled for the CPU.
    fn emulate(program: &Path, vocab: usize, uniforms: &[f32], logits: &[f32]) -> Vec<f32> {
        let mut input = Vec::new();
        for size in [vocab, uniforms.len()] {
            input.extend((size as i32).to_ne_bytes());
        }
        for value in [TEMPERATURE, CAP].iter().chain(uniforms).chain(logits) {
            input.extend(value.to_ne_bytes());
        }
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success());
        let values = done.stdout.chunks_exact(4);
        values
            .map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn the_kernel_draws_as_the_cpu_does() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("emulate");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let compiled = Command::new(compiler)
            .args(["-std=c++20", "-O2", "-ffp-contract=off", "-pthread", "-o"])
            .arg(&program)
            .arg(root.join("tests/cuda/emulate.cpp"))
            .status()
            .unwrap();
        assert!(compiled.success());

        let mut state = 7_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        // Sizes around those of a warp, a block (64 threads) and the slices of its warps.
        for vocab in [1, 2, 31, 33, 63, 64, 65, 1000, 4097] {
            for spread in [0.0, 5.0, 60.0] {
                let uniforms = [0.0, random(), random(), 1.0 - f32::EPSILON / 2.0];
                let positions = uniforms.len();
                let logits: Vec<f32> = (0..vocab * positions)
                    .map(|_| (random() - 0.5) * spread)
                    .collect();
                let draws = emulate(&program, vocab, &uniforms, &logits);
                let (weights, planes) = draws.split_at(vocab * positions);
                for (p, (logits, got)) in
                    logits.chunks(vocab).zip(weights.chunks(vocab)).enumerate()
                {
                    let (want, weights) = draw_row_alone(logits, TEMPERATURE, CAP, uniforms[p]);
                    let plane = |i: usize| planes[i * positions + p];
                    let RowDraw {
                        argmax,
                        sampled,
                        entropy,
                        scale,
                        margin,
                        ..
                    } = want;
                    assert_eq!(plane(0) as usize, argmax, "vocab {vocab} spread {spread}");
                    assert!((plane(2) - entropy).abs() <= 2e-6 * entropy.max(1.0));
                    assert!((plane(3) / scale - 1.0).abs() < 2e-6);
                    assert_eq!((plane(4), plane(5)), (vocab as f32, 0.0));
                    for (got, want) in got.iter().zip(&weights) {
                        assert!((got - want).abs() <= 2e-6 * want, "{got} {want}");
                    }
                    assert!((plane(7) - margin).abs() < 2e-6, "{} {margin}", plane(7));
                    // Near the border between two tokens rounding may decide.
                    let drawn = plane(1) as usize;
                    assert!(drawn < vocab);
                    let probability = weights[drawn] * scale;
                    assert!((plane(6) - probability).abs() <= 4e-6 * probability);
                    if drawn != sampled {
                        let between = drawn.min(sampled) + 1..drawn.max(sampled);
                        let apart: f32 = weights[between].iter().sum();
                        assert!(
                            apart < 1e-4 * WEIGHT_SCALE,
                            "{drawn} for {sampled}: vocab {vocab} spread {spread}"
                        );
                    }
                }
            }
        }
        // CPUs and GPUs produce NaNs with different bits.
        for nan in [f32::NAN, f32::from_bits(0x7fff_ffff)] {
            let broken = emulate(&program, 200, &[0.5], &[nan; 200]);
            let planes = &broken[200..];
            assert!(planes[0] < 200.0 && planes[1] < 200.0 && planes[2].is_nan());
        }
    }
}

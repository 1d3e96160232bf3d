// Everything between the logits and the sampled tokens, for CUDA: what Context::draw of
// src/ggml/kernels/draw.rs does on the CPU, with the same arithmetic. Two reads of the logits, one write.
//
// Compiled into ggml's CUDA backend (build/CMakeLists.txt), so that it runs on the backend's own
// stream. The test of src/ggml/cuda/mod.rs compiles the kernel for
// the CPU.

#include "draw.cuh"

#include "ggml-backend-impl.h"
#include "ggml-cuda/common.cuh"

// Fills `draws` (F32: weights [vocab, positions], then the planes [positions]) from raw logits
// [vocab, positions]. All pointers are the device's. Returns a cudaError_t; the work is queued, not done.
extern "C" {
GGML_BACKEND_API int llama_diffusion_cuda_draw(
        ggml_backend_t backend, const float * logits, const float * uniforms, const float * scalars,
        float * draws, int vocab, int positions) {
    auto * context = static_cast<ggml_backend_cuda_context *>(backend->context);
    ggml_cuda_set_device(context->device);
    constexpr int threads = 1024;
    draw_kernel<threads><<<positions, threads, 0, context->stream()>>>(logits, uniforms, scalars, draws, vocab);
    return cudaGetLastError();
}
}

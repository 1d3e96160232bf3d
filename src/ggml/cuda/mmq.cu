// ggml's products of quantized matrices, with tiles for the experts that fit their tokens. Compiled
// instead of ggml-cuda/mmq.cu, which it includes (build/CMakeLists.txt).
//
// A product with selected experts has tiles of up to 128 tokens, chosen by the number of all tokens.
// A canvas of 256 tokens with 8 of 128 experts gives each expert 16: seven eighths of such a tile are
// computed for nothing.

#include "ggml-cuda/common.cuh"
#include "ggml-cuda/mmid.cuh"
#include "ggml-cuda/mmq.cuh"
#include "ggml-cuda/quantize.cuh"

// Twice the mean number of tokens of an expert: most experts then need a single tile.
static int64_t expert_tile(int64_t pairs, int64_t experts) {
    return 2 * ((pairs + experts - 1) / experts);
}

template <ggml_type type, ggml_prec prec = GGML_PREC_Q8>
static void mul_mat_q_by_expert(ggml_backend_cuda_context & ctx, mmq_args args, cudaStream_t stream) {
    if (args.expert_bounds != nullptr) {
        const int64_t tile = expert_tile(args.ncols_dst, args.nchannels_x);
        args.ncols_opt = tile < args.ncols_opt ? tile : args.ncols_opt;
    }
    mul_mat_q_case<type, prec>(ctx, args, stream);
}

#define mul_mat_q_case mul_mat_q_by_expert
#include "ggml-cuda/mmq.cu"

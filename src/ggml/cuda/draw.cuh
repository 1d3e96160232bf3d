// The kernel of draw.cu. It uses nothing of CUDA but threads, shared memory and barriers.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

constexpr int DRAW_WARP = 32;
// WEIGHT_SCALE of src/ggml/kernels/draw.rs.
constexpr float DRAW_WEIGHT_SCALE = 32768.0f;
// Terms that are added in F32 before their sum joins one in F64: GPUs for games have few F64 units.
constexpr int DRAW_GROUP = 8;

// exp and tanh of src/ggml/kernels/math.rs: ggml compiles with -use_fast_math, whose functions lose
// digits that the soft cap multiplies by 30.
static __device__ float draw_exp(float x) {
    constexpr float round = 12582912.0f; // 1.5 * 2^23: leaves the nearest integer in the low bits
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x; // fmin and fmax would lose a NaN
    const float shifted = x * 1.44269504f + round;
    const float n = shifted - round;
    const float r = x - n * 0.6933594f + n * 2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3982e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 0.16666666f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t bits, steps;
    memcpy(&bits, &p, 4);
    memcpy(&steps, &shifted, 4);
    bits += steps << 23;
    memcpy(&p, &bits, 4);
    return x == x ? p : x; // the bits of a NaN may have become a number's
}

static __device__ float draw_tanh(float x) {
    const float s = x * x;
    float p = -5.7049887e-3f;
    p = p * s + 2.063909e-2f;
    p = p * s - 5.3739716e-2f;
    p = p * s + 0.13331442f;
    p = p * s - 0.3333328f;
    const float near = x + x * s * p;
    const float e = draw_exp(-2.0f * fabsf(x));
    const float far = copysignf((1.0f - e) / (1.0f + e), x);
    return fabsf(x) < 0.625f ? near : far;
}

// What `combine` makes of the values of all threads of the block. `shared` has room for one each.
template <int THREADS, typename T, typename Combine>
static __device__ T draw_reduce(T * shared, T value, Combine combine) {
    const int t = threadIdx.x;
    shared[t] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (t < half) {
            shared[t] = combine(shared[t], shared[t + half]);
        }
        __syncthreads();
    }
    const T result = shared[0];
    __syncthreads();
    return result;
}

struct draw_best {
    float score;
    int   token;
    float second; // the next greatest score
};

// One block of THREADS (a power of two, at least a warp) draws one position; see
// llama_diffusion_cuda_draw.
template <int THREADS>
static __global__ void __launch_bounds__(THREADS) draw_kernel(
        const float * logits, const float * uniforms, const float * scalars, float * draws, int vocab) {
    __shared__ draw_best bests[THREADS];
    __shared__ double    sums[THREADS];
    __shared__ int       places[THREADS];
    __shared__ double    slice_sums[THREADS / DRAW_WARP];

    const int t = threadIdx.x, lane = t % DRAW_WARP, warp = t / DRAW_WARP;
    const int position = blockIdx.x, positions = gridDim.x;
    const float   cap  = scalars[1];
    const float   gain = cap / scalars[0];
    const float * x = logits + (int64_t) position * vocab;
    float * weights = draws + (int64_t) position * vocab;
    float * planes  = draws + (int64_t) positions * vocab + position;

    // The most likely token, the first of equals.
    draw_best best = {-INFINITY, INT32_MAX, -INFINITY};
    for (int i = t; i < vocab; i += THREADS) {
        const float z = gain * draw_tanh(x[i] / cap);
        if (z > best.score) {
            best = {z, i, best.score};
        } else if (z > best.second) {
            best.second = z;
        }
    }
    best = draw_reduce<THREADS>(bests, best, [](draw_best a, draw_best b) {
        const bool  later = b.score > a.score || (b.score == a.score && b.token < a.token);
        draw_best   winner = later ? b : a;
        const float loser = later ? a.score : b.score;
        winner.second = loser > winner.second ? loser : winner.second;
        return winner;
    });
    const float top = best.score;

    // Weights, their sums by slice of the vocabulary, and the sum of weight times score. Each warp
    // takes a slice.
    const int slice  = (vocab + THREADS - 1) / THREADS * DRAW_WARP;
    const int slices = (vocab + slice - 1) / slice;
    const int begin  = warp * slice;
    const int end    = begin + slice < vocab ? begin + slice : vocab;
    double sum = 0.0, moment = 0.0;
    for (int first = begin + lane; first < end; first += DRAW_GROUP * DRAW_WARP) {
        float some = 0.0f, some_moment = 0.0f;
        for (int i = first; i < first + DRAW_GROUP * DRAW_WARP && i < end; i += DRAW_WARP) {
            const float below = gain * draw_tanh(x[i] / cap) - top;
            const float w = draw_exp(below);
            some += w;
            some_moment += w * below;
            weights[i] = w * DRAW_WEIGHT_SCALE;
        }
        sum += some;
        moment += some_moment;
    }
    const auto add = [](double a, double b) { return a + b; };
    moment = draw_reduce<THREADS>(sums, moment, add);
    sums[t] = sum;
    __syncthreads();
    for (int half = DRAW_WARP / 2; half > 0; half /= 2) {
        if (lane < half) {
            sums[t] += sums[t + half];
        }
        __syncthreads();
    }
    if (lane == 0) {
        slice_sums[warp] = sums[t];
    }
    __syncthreads();
    double total = 0.0;
    for (int s = 0; s < slices; s++) {
        total += slice_sums[s];
    }

    // The draw: the slice, the run of one thread in it, the token. Every thread finds the slice.
    const double target = (double) uniforms[position] * total;
    double before = 0.0;
    int    drawn  = 0;
    for (; drawn < slices - 1 && !(before + slice_sums[drawn] > target); drawn++) {
        before += slice_sums[drawn];
    }
    const int from = drawn * slice;
    const int to   = from + slice < vocab ? from + slice : vocab;
    const int run  = (to - from + THREADS - 1) / THREADS;
    const int run_from = from + t * run < to ? from + t * run : to;
    const int run_to   = run_from + run < to ? run_from + run : to;
    double run_sum = 0.0;
    for (int i = run_from; i < run_to; i++) {
        run_sum += (double) weights[i] / DRAW_WEIGHT_SCALE;
    }
    sums[t] = run_sum;
    __syncthreads();
    for (int offset = 1; offset < THREADS; offset *= 2) {
        const double earlier = t >= offset ? sums[t - offset] : 0.0;
        __syncthreads();
        sums[t] += earlier;
        __syncthreads();
    }
    const double reached_before = before + (t > 0 ? sums[t - 1] : 0.0);
    const bool   here = before + sums[t] > target;
    const int    chosen =
        draw_reduce<THREADS>(places, here ? t : THREADS, [](int a, int b) { return a < b ? a : b; });
    // Rounding may leave the target unreached: then the last token of the slice is meant.
    if (t == (chosen < THREADS ? chosen : 0)) {
        int sampled = to - 1;
        if (chosen < THREADS && run_from < run_to) {
            double reached = reached_before;
            for (sampled = run_from; sampled < run_to - 1; sampled++) {
                reached += (double) weights[sampled] / DRAW_WEIGHT_SCALE;
                if (reached > target) {
                    break;
                }
            }
        }
        // H = -sum p ln p with ln p = below - ln total. What is not a number must stay visible.
        const double entropy = log(total) - moment / total;
        planes[0 * positions] = (float) (best.token < vocab ? best.token : 0);
        planes[1 * positions] = (float) sampled;
        planes[2 * positions] = entropy < 0.0 ? 0.0f : (float) entropy;
        planes[3 * positions] = (float) (1.0 / (DRAW_WEIGHT_SCALE * total));
        planes[4 * positions] = (float) vocab; // sparse mixtures run on the CPU alone
        planes[5 * positions] = 0.0f;
        planes[6 * positions] = (float) ((double) weights[sampled] / (DRAW_WEIGHT_SCALE * total));
        planes[7 * positions] = (float) ((1.0 - (double) draw_exp(best.second - top)) / total);
    }
}

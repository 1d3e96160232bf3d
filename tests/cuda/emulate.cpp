// Runs the CUDA kernel of src/ggml/cuda/draw.cuh on the CPU: a thread for each thread of a block, block
// after block. Reads vocab and positions (I32), temperature and soft cap, uniforms, logits (F32) from the
// standard input, writes the draws to the standard output.

#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __shared__ static // blocks run one after another

struct index_x {
    int x;
};
static thread_local index_x threadIdx;
static index_x blockIdx, gridDim;

constexpr int THREADS = 64;
static std::barrier block_barrier(THREADS);
static void __syncthreads() {
    block_barrier.arrive_and_wait();
}

#include "../../src/ggml/cuda/draw.cuh"

template <typename T> static std::vector<T> read_values(size_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, stdin) != count) {
        fprintf(stderr, "the input ends early\n");
        exit(1);
    }
    return values;
}

int main() {
    const auto sizes = read_values<int32_t>(2);
    const int vocab = sizes[0], positions = sizes[1];
    const auto scalars  = read_values<float>(2);
    const auto uniforms = read_values<float>(positions);
    const auto logits   = read_values<float>((size_t) vocab * positions);
    std::vector<float> draws((size_t) (vocab + 8) * positions, -1.0f);
    gridDim.x = positions;
    for (blockIdx.x = 0; blockIdx.x < positions; blockIdx.x++) {
        std::vector<std::thread> block;
        for (int t = 0; t < THREADS; t++) {
            block.emplace_back([&, t] {
                threadIdx.x = t;
                draw_kernel<THREADS>(logits.data(), uniforms.data(), scalars.data(), draws.data(), vocab);
            });
        }
        for (auto & thread : block) {
            thread.join();
        }
    }
    return fwrite(draws.data(), sizeof(float), draws.size(), stdout) == draws.size() ? 0 : 1;
}

/* Included before every C++ file of ggml-cpu (build/CMakeLists.txt).
 *
 * GCC's AMX intrinsics are assembly statements whose operands do not cover the memory that they read:
 * before GCC 14, _tile_loadconfig covers 8 of the 64 bytes; _tile_loadd and _tile_stream_loadd cover
 * none, still in GCC 14. So the optimizer may drop or delay stores to that memory. It drops the rows and
 * columns of ggml's tile configuration, and the first tile instruction faults. clang's intrinsics are
 * compiler builtins, which do not have this fault. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)

#include <immintrin.h>

#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))

#undef _tile_loadd
#define _tile_loadd(tile, base, stride) LLAMA_DIFFUSION_TILE_LOAD("tileloadd", tile, base, stride)

#undef _tile_stream_loadd
#define _tile_stream_loadd(tile, base, stride) \
    LLAMA_DIFFUSION_TILE_LOAD("tileloaddt1", tile, base, stride)

#define LLAMA_DIFFUSION_TILE_LOAD(instruction, tile, base, stride)                            \
    __asm__ volatile("{" instruction "\t(%0,%1,1), %%tmm" #tile "|" instruction               \
                     "\t%%tmm" #tile ", [%0+%1*1]}" ::"r"((const void *)(base)),              \
                     "r"((long)(stride))                                                      \
                     : "memory")

#endif

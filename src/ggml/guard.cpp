// Calls of Rust code into ggml's backends, whose exceptions end here (guard.rs).

#include <cstddef>
#include <cstdio>
#include <exception>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// Calls, and returns whether the call returned. If not, `reason` says why, in at most `size` bytes.
extern "C" EXPORT bool llama_diffusion_guard(void (*call)(void *), void *state, char *reason, size_t size) {
    try {
        call(state);
        return true;
    } catch (const std::exception &exception) {
        std::snprintf(reason, size, "%s", exception.what());
        return false;
    }
}

#pragma once
#include <dnnl.hpp>

#include <cstddef>

namespace jboat {

// Which thread owns what: Jittor runs one operation after the other, in the thread of Python's that asked for a value, and never
// lets go of Python's lock meanwhile. So whoever runs a kernel owns all that kernels keep from call to call, the engine, streams and
// plans of oneDNN. Threads that a kernel starts for a loop of its own see the kernel's arguments alone.

static const size_t most_plans = 1000; // of one kind that are kept, as in oneDNN's own cache

// On processors with AVX-512 some of oneDNN's kernels write past the caches, where an address that is no multiple of 64
// ends the process. Jittor's are multiples of 32.
static const size_t cache_line = 64;

inline bool is_aligned(const void* memory) { return (size_t)memory % cache_line == 0; }

inline void* aligned(void* memory) { return (char*)memory + (cache_line - (size_t)memory % cache_line) % cache_line; }

inline dnnl::engine& engine() {
    static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

} // namespace jboat

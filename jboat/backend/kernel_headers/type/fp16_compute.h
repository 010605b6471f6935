// Found before Jittor's own by kernels: it, and what misc/cuda_atomic.h left out.
#pragma once
#include_next "type/fp16_compute.h"
#ifdef JBOAT_ATOMIC_WITHOUT_HALF
namespace jittor {
template <> struct int_mapper<__half> {
    typedef __half src;
    typedef unsigned short target;
    inline static __device__ target to_int(src a) { return __half_as_ushort(a); }
    inline static __device__ target* to_intp(src* a) { return (target*)a; }
    inline static __device__ src from_int(target a) { return __ushort_as_half(a); }
};
}  // namespace jittor
#endif

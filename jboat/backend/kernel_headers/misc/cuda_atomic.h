// Found before Jittor's own by kernels. Jittor's includes the headers of float16 and bfloat16, a tenth of a kernel's
// compilation and more, for one class; this one leaves them out. Kernels of those types include type/fp16_compute.h.
#pragma once
#if defined(__CUDA_FP16_H__) || defined(IS_ROCM)
#include_next "misc/cuda_atomic.h"
#else
// the guards of the two headers, so that Jittor's includes nothing, and names of its own for what they define
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
#define __half jboat_no_half
#define __half_as_ushort jboat_no_half_as_ushort
#define __ushort_as_half jboat_ushort_as_no_half
struct __half {};
static inline __device__ unsigned short __half_as_ushort(__half) { return 0; }
static inline __device__ __half __ushort_as_half(unsigned short) { return {}; }
#include_next "misc/cuda_atomic.h"
#undef __half
#undef __half_as_ushort
#undef __ushort_as_half
#undef __CUDA_FP16_H__
#undef __CUDA_BF16_H__
#define JBOAT_ATOMIC_WITHOUT_HALF
#endif

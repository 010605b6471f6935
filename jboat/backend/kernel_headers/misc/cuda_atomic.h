// Found before Jittor's own by kernels. Jittor's includes the headers of float16 and bfloat16, a fifth of a kernel's
// compilation, for one class; this one leaves them out. Kernels that use those types include type/fp16_compute.h.
#pragma once
#if defined(__CUDA_FP16_H__) || defined(IS_ROCM)
#include_next "misc/cuda_atomic.h"
#else
// the guards of the two headers, so that Jittor's includes nothing, and a class in place of what they define
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
struct jboat_no_half {};
static inline __device__ unsigned short __half_as_ushort(jboat_no_half) { return 0; }
static inline __device__ jboat_no_half __ushort_as_half(unsigned short) { return {}; }
#define __half jboat_no_half
#include_next "misc/cuda_atomic.h"
#undef __half
#undef __CUDA_FP16_H__
#undef __CUDA_BF16_H__
#define JBOAT_ATOMIC_WITHOUT_HALF
#endif

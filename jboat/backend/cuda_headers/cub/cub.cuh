// CUB 3, which CUDA 13 brings, has lost names that Jittor 1.3.11 uses.
#pragma once
#include <shadowed/cub/cub.cuh>
#if CUB_VERSION >= 300000
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

namespace cub {

struct Max {
    template <class A, class B>
    __host__ __device__ __forceinline__ A operator()(const A& a, const B& b) const {
        return a < b ? A(b) : a;
    }
};

struct Min {
    template <class A, class B>
    __host__ __device__ __forceinline__ A operator()(const A& a, const B& b) const {
        return b < a ? A(b) : a;
    }
};

struct Sum {
    template <class A, class B>
    __host__ __device__ __forceinline__ A operator()(const A& a, const B& b) const {
        return a + b;
    }
};

template <class T>
using CountingInputIterator = thrust::counting_iterator<T>;

template <class Value, class Operation, class Input, class Offset = long long>
struct TransformInputIterator : thrust::transform_iterator<Operation, Input, Value> {
    __host__ __device__ __forceinline__ TransformInputIterator(Input input, Operation operation)
        : thrust::transform_iterator<Operation, Input, Value>(input, operation) {}
};

__device__ __forceinline__ unsigned LaneId() {
    unsigned lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

}  // namespace cub
#endif

#include "linear_algebra.h"

#include <algorithm>

#include "threads.h"

namespace jboat {

static const int64 block = 1 << 12; // summed in float32, the blocks in float64

void scaled(const float* a, float s, int64 n, float* result) {
    #pragma omp parallel for simd if (parallel : worth_two_threads(n, linear_algebra))
    for (int64 i = 0; i < n; i++) result[i] = s * a[i];
}

void combined(const float* a, float s, const float* b, float t, int64 n, float* result) {
    #pragma omp parallel for simd if (parallel : worth_two_threads(n, linear_algebra))
    for (int64 i = 0; i < n; i++) result[i] = s * a[i] + t * b[i];
}

double inner_product(const float* a, const float* b, int64 n, double start) {
    double total = start;
    #pragma omp parallel for reduction(+ : total) if (worth_two_threads(n, linear_algebra))
    for (int64 begin = 0; begin < n; begin += block) {
        const int64 end = std::min(n, begin + block);
        float sum = 0;
        for (int64 i = begin; i < end; i++) sum += a[i] * b[i];
        total += sum;
    }
    return total;
}

} // namespace jboat

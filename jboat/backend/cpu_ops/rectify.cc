#include "rectify.h"

#include <algorithm>

#include "threads.h"

namespace jboat {

static const int64 at_once = 1 << 10; // numbers, which stay in the core's cache while terms are added

// Comparisons with NaN are false, so that it stays in all of these.

static inline void rectify_part(const float* x, int64 n, float* to) {
    #pragma omp simd
    for (int64 i = 0; i < n; i++) to[i] = x[i] <= 0 ? 0.f : x[i];
}

// Writes, or adds to what is there, the numbers of z where y is positive. Elsewhere y is zero or NaN, and so is what is added.
template <bool add>
static inline void pull_back(const float* y, const float* z, int64 n, float* to) {
    #pragma omp simd
    for (int64 i = 0; i < n; i++) to[i] = (add ? to[i] : 0.f) + (y[i] > 0 ? z[i] : y[i]);
}

void rectify(const float* x, int64 n, float* result) {
    #pragma omp parallel for if (worth_two_threads(n, rectifying))
    for (int64 begin = 0; begin < n; begin += at_once) rectify_part(x + begin, std::min(at_once, n - begin), result + begin);
}

void rectify_backwards(const float* y, const float* const* terms, int64 number_of_terms, int64 n, float* result) {
    #pragma omp parallel for if (worth_two_threads(n, rectifying))
    for (int64 begin = 0; begin < n; begin += at_once) {
        const int64 count = std::min(at_once, n - begin);
        pull_back<false>(y + begin, terms[0] + begin, count, result + begin);
        for (int64 i = 1; i < number_of_terms; i++) pull_back<true>(y + begin, terms[i] + begin, count, result + begin);
    }
}

} // namespace jboat

#pragma once
#include "int64.h"

namespace jboat {

// result = s a, and s a + t b, of n numbers
void scaled(const float* a, float s, int64 n, float* result);
void combined(const float* a, float s, const float* b, float t, int64 n, float* result);

// start, plus the sum of all a[i] b[i]
double inner_product(const float* a, const float* b, int64 n, double start);

} // namespace jboat

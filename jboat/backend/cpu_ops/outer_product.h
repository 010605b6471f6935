#pragma once
#include "int64.h"

namespace jboat {

// result[i, j] = sum over m of a[m, i] b[m, j], as the gradient by a layer's weights is: n rows and k columns. All matrices are stored
// row by row.
void outer_product(const float* a, const float* b, int64 n, int64 k, int64 m, float* result);

} // namespace jboat

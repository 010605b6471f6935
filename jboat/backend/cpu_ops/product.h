#pragma once
#include "int64.h"

namespace jboat {

// result[n, k] = op(a)[n, m] op(b)[m, k], with bias[k] added to every row unless it is null, where op transposes if asked to.
// All are float32 and stored row by row.
void multiply(
    const float* a, const float* b, const float* bias, bool trans_a, bool trans_b, int64 n, int64 k, int64 m, float* result
);

} // namespace jboat

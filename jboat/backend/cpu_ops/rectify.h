#pragma once
#include "int64.h"

namespace jboat {

// Of n numbers each. NaN stays in all of these.

// x where it is positive, else 0
void rectify(const float* x, int64 n, float* result);

// the sum of all terms where y, which rectify has given, is positive, else 0
void rectify_backwards(const float* y, const float* const* terms, int64 number_of_terms, int64 n, float* result);

} // namespace jboat

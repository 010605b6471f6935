#pragma once
#include "int64.h"

namespace jboat {

// Products of a large matrix with one of few rows or columns, such as one for each class, which leave oneDNN's vectors
// partly empty. All matrices are stored row by row.

// How many rows or columns are few.
static const int64 most_of_few = 24;

// How many numbers the processor computes with at once.
#ifdef __AVX512F__
static const int64 lanes = 16;
#else
static const int64 lanes = 8;
#endif

// result[i, j] = sum over m of large[i, m] few[j, m]; so far from one another are the result's entries along i and j. The
// sums are over at least as many numbers as there are lanes.
void inner_product_with_few(
    const float* large, int64 rows, const float* few, int64 few_rows, int64 m, float* result, int64 along_i, int64 along_j
);

// result[j, i] = sum over m of few[m, j] large[m, i], with so many numbers of scratch.
void outer_product_with_few(
    const float* large, int64 columns, const float* few, int64 few_columns, int64 m, float* result, int64 along_j,
    int64 along_i, float* scratch
);
int64 outer_product_scratch(int64 columns, int64 few_columns);

} // namespace jboat

#pragma once
#include "int64.h"

namespace jboat {

// The labels of rows, of 32 or 64 bits, or none at all. A row whose label is none of 0..k-1 does not count, unless there is NaN
// in it: it is multiplied by zero, which leaves NaN.
struct Labels {
    const int* narrow;
    const int64* wide;

    int64 operator[](int64 i) const { return narrow ? narrow[i] : wide[i]; }

    bool count(int64 i, int64 k) const { return !(narrow || wide) || ((*this)[i] >= 0 && (*this)[i] < k); }
};

// What cross_entropy_op.h says of the operation's parts of the same names; all arrays are stored row by row.
void losses(const float* z, const Labels& t, int64 n, int64 k, float* result);
void mean(const float* v, const Labels& t, int64 n, int64 k, float* result);
void softmax(const float* z, const Labels& t, int64 n, int64 k, float* result);
void by_scores(const float* p, const float* q, int64 n, int64 k, float* result);
void by_losses(const float* p, const Labels& t, const float* s, int64 n, int64 k, float* result);
void along(const float* u, const float* p, const Labels& t, int64 n, int64 k, float* result);
void spread(float s, const Labels& t, int64 n, int64 k, float* result);
void scaled_rows(const float* q, const float* s, int64 n, int64 k, float* result);
void row_products(const float* q, const float* u, int64 n, int64 k, float* result);

} // namespace jboat

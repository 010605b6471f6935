#include "cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "scratch.h"
#include "threads.h"

namespace jboat {

static int64 rows_at_once(int64 k) { return std::max<int64>(1, 4096 / std::max<int64>(1, k)); }

// Calls work(start, end) for all rows, some at a time.
template <class Work>
static void for_rows(int64 n, int64 k, Work work) {
    const int64 rows = rows_at_once(k);
    #pragma omp parallel for if (worth_two_threads(n * k, rows_of_scores))
    for (int64 start = 0; start < n; start += rows) work(start, std::min(n, start + rows));
}

// Exponentials of the rows of z with the largest entry subtracted, which is returned for every row.
static void exponentials(const float* z, int64 rows, int64 k, float* e, float* largest) {
    for (int64 i = 0; i < rows; i++) {
        float most = k ? z[i * k] : 0.f;
        for (int64 j = 1; j < k; j++) most = z[i * k + j] > most ? z[i * k + j] : most;
        for (int64 j = 0; j < k; j++) e[i * k + j] = z[i * k + j] - most;
        largest[i] = most;
    }
    for (int64 i = 0; i < rows * k; i++) e[i] = std::exp(e[i]); // one loop, which g++ makes vector code of
}

static inline float product_of_rows(const float* x, const float* y, int64 k) {
    float sum = 0;
    for (int64 j = 0; j < k; j++) sum += x[j] * y[j];
    return sum;
}

void losses(const float* z, const Labels& t, int64 n, int64 k, float* result) {
    const Scratch scratch(n * (k + 1) * sizeof(float));
    float* const largest = scratch.numbers();
    float* const e = largest + n;
    for_rows(n, k, [=](int64 start, int64 end) {
        exponentials(z + start * k, end - start, k, e + start * k, largest + start);
        for (int64 i = start; i < end; i++) {
            float sum = 0;
            for (int64 j = 0; j < k; j++) sum += e[i * k + j];
            const float loss = std::log(sum) + largest[i];
            result[i] = t.count(i, k) ? loss - z[i * k + t[i]] : 0.f * loss;
        }
    });
}

void mean(const float* v, const Labels& t, int64 n, int64 k, float* result) {
    int64 count = 0;
    double sum = 0;
    for (int64 i = 0; i < n; i++) {
        count += t.count(i, k);
        sum += t.count(i, k) ? v[i] : 0.f * v[i];
    }
    result[0] = sum / count;
}

void softmax(const float* z, const Labels& t, int64 n, int64 k, float* result) {
    const Scratch scratch(n * sizeof(float));
    float* const largest = scratch.numbers();
    for_rows(n, k, [=](int64 start, int64 end) {
        exponentials(z + start * k, end - start, k, result + start * k, largest + start);
        for (int64 i = start; i < end; i++) {
            float* row = result + i * k;
            float sum = 0;
            for (int64 j = 0; j < k; j++) sum += row[j];
            const float share = t.count(i, k) ? 1.f / sum : 0.f;
            for (int64 j = 0; j < k; j++) row[j] *= share;
        }
    });
}

void by_scores(const float* p, const float* q, int64 n, int64 k, float* result) {
    for_rows(n, k, [=](int64 start, int64 end) {
        for (int64 i = start; i < end; i++) {
            const float *x = p + i * k, *y = q + i * k;
            const float sum = product_of_rows(x, y, k);
            for (int64 j = 0; j < k; j++) result[i * k + j] = x[j] * (y[j] - sum);
        }
    });
}

void by_losses(const float* p, const Labels& t, const float* s, int64 n, int64 k, float* result) {
    for_rows(n, k, [=](int64 start, int64 end) {
        for (int64 i = start; i < end; i++) {
            const float* x = p + i * k;
            float* row = result + i * k;
            for (int64 j = 0; j < k; j++) row[j] = s[i] * x[j];
            if (t.count(i, k)) row[t[i]] -= s[i];
        }
    });
}

void along(const float* u, const float* p, const Labels& t, int64 n, int64 k, float* result) {
    for_rows(n, k, [=](int64 start, int64 end) {
        for (int64 i = start; i < end; i++) {
            const float* x = u + i * k;
            const float sum = product_of_rows(x, p + i * k, k);
            result[i] = t.count(i, k) ? sum - x[t[i]] : sum;
        }
    });
}

void spread(float s, const Labels& t, int64 n, int64 k, float* result) {
    int64 count = 0;
    for (int64 i = 0; i < n; i++) count += t.count(i, k);
    const float share = s / count;
    for (int64 i = 0; i < n; i++) result[i] = t.count(i, k) ? share : 0.f * share;
}

void scaled_rows(const float* q, const float* s, int64 n, int64 k, float* result) {
    for_rows(n, k, [=](int64 start, int64 end) {
        for (int64 i = start; i < end; i++)
            for (int64 j = 0; j < k; j++) result[i * k + j] = s[i] * q[i * k + j];
    });
}

void row_products(const float* q, const float* u, int64 n, int64 k, float* result) {
    for_rows(n, k, [=](int64 start, int64 end) {
        for (int64 i = start; i < end; i++) result[i] = product_of_rows(q + i * k, u + i * k, k);
    });
}

} // namespace jboat

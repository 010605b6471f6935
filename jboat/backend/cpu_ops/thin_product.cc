#include "thin_product.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "threads.h"

namespace jboat {

typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(lanes * sizeof(float)), aligned(sizeof(float))));
typedef int Order __attribute__((vector_size(lanes * sizeof(int))));

// So many sums, and what they are made of, fit the processor's registers.
#ifdef __AVX512F__
static const int inner_rows = 5, most_outer_columns = 10;
#else
static const int inner_rows = 2, most_outer_columns = 6;
#endif
static const int most_inner_columns = 5;
static const int outer_vectors = 2;
static const int64 part_rows = 4 * inner_rows; // which are read for every block of columns, and stay in the core's cache
static const int64 rows_at_once = 32; // of outer_vectors each

static inline Vector load(const float* from) { return *(const Unaligned*)from; }

// the first numbers, and zeros behind them
static inline Vector load(const float* from, int64 count) {
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#elif defined(__AVX__)
    const Order place = {0, 1, 2, 3, 4, 5, 6, 7};
    return (Vector)_mm256_maskload_ps(from, (__m256i)(place < (int)count));
#else
    Vector v = {};
    memcpy(&v, from, count * sizeof(float));
    return v;
#endif
}

// the sums of neighbours: first those of a, then those of b
static inline Vector pairs(Vector a, Vector b) {
    Order even;
    for (int i = 0; i < lanes; i++) even[i] = 2 * i;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
}

// Adds the sums of each vector's lanes up in pairs, until they all lie beside one another in the first vectors.
template <int count>
static inline void add_lanes_up(Vector* v) {
    #pragma GCC unroll 4
    for (int start = 0; start < count; start += lanes)
        #pragma GCC unroll 4
        for (int left = lanes / 2; left; left /= 2)
            #pragma GCC unroll 8
            for (int i = 0; i < left; i++) v[start + i] = pairs(v[start + 2 * i], v[start + 2 * i + 1]);
}

// Columns of few times inner_rows, or one, of large.
template <int rows, int columns>
static void inner_tile(const float* large, const float* few, int64 m, float* result, int64 along_i, int64 along_j) {
    Vector sum[rows][columns] = {};
    auto add = [&](int64 from, auto read) __attribute__((always_inline)) {
        Vector x[rows];
        #pragma GCC unroll 8
        for (int i = 0; i < rows; i++) x[i] = read(large + i * m + from);
        #pragma GCC unroll 8
        for (int j = 0; j < columns; j++) {
            const Vector y = read(few + j * m + from);
            #pragma GCC unroll 8
            for (int i = 0; i < rows; i++) sum[i][j] += x[i] * y;
        }
    };
    const int64 whole = m / lanes * lanes;
    for (int64 from = 0; from < whole; from += lanes) add(from, [](const float* p) { return load(p); });
    add(whole, [=](const float* p) { return load(p, m - whole); });

    const int count = rows * columns;
    Vector v[(count + lanes - 1) / lanes * lanes];
    #pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        #pragma GCC unroll 8
        for (int j = 0; j < columns; j++) v[i * columns + j] = sum[i][j];
    #pragma GCC unroll 16
    for (int i = count; i < (int)(sizeof(v) / sizeof(Vector)); i++) v[i] = Vector{};
    add_lanes_up<count>(v);
    #pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        #pragma GCC unroll 8
        for (int j = 0; j < columns; j++) {
            const int place = i * columns + j;
            result[i * along_i + j * along_j] = v[place / lanes * lanes][place % lanes];
        }
}

template <int columns>
static void inner_columns(
    const float* large, int64 rows, const float* few, int64 few_rows, int64 m, float* result, int64 along_i, int64 along_j
) {
    #pragma omp parallel if (worth_two_threads(rows * few_rows * m, thin_products))
    {
        const int64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64 begin = rows * thread / threads, end = rows * (thread + 1) / threads;
        const int64 tile = end - begin < inner_rows ? 1 : inner_rows;
        for (int64 part = begin; part < end; part += part_rows) {
            const int64 part_end = std::min(end, part + part_rows);
            for (int64 block = 0; block < few_rows; block += columns)
                for (int64 next = part; next < part_end; next += tile) {
                    // the last tile and the last block take rows once more
                    const int64 i = std::min(next, end - tile), j = std::min(block, few_rows - columns);
                    (tile == 1 ? inner_tile<1, columns> : inner_tile<inner_rows, columns>)(large + i * m, few + j * m, m,
                                                                                           result + i * along_i + j * along_j,
                                                                                           along_i, along_j);
                }
        }
    }
}

void inner_product_with_few(
    const float* large, int64 rows, const float* few, int64 few_rows, int64 m, float* result, int64 along_i, int64 along_j
) {
    const int64 blocks = (few_rows + most_inner_columns - 1) / most_inner_columns;
    decltype(&inner_columns<1>) product = nullptr;
    switch ((few_rows + blocks - 1) / blocks) {
    case 1: product = inner_columns<1>; break;
    case 2: product = inner_columns<2>; break;
    case 3: product = inner_columns<3>; break;
    case 4: product = inner_columns<4>; break;
    default: product = inner_columns<most_inner_columns>;
    }
    product(large, rows, few, few_rows, m, result, along_i, along_j);
}

// Adds rows_at_once rows of large, or fewer, to sums of several columns of few and vectors of large; count numbers of the
// last vector are large's.
template <int columns, int vectors>
static void outer_tile(
    const float* large, int64 row, const float* few, int64 few_columns, int64 rows, int64 count, float* sums, int64 sums_row,
    bool first
) {
    Vector sum[columns][vectors];
    #pragma GCC unroll 16
    for (int j = 0; j < columns; j++)
        #pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[j][v] = first ? Vector{} : load(sums + j * sums_row + v * lanes);
    for (int64 m = 0; m < rows; m++) {
        Vector x[vectors];
        #pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const float* from = large + m * row + v * lanes;
            x[v] = v == vectors - 1 ? load(from, count) : load(from);
            __builtin_prefetch(from - rows_at_once * row); // what comes next
        }
        #pragma GCC unroll 16
        for (int j = 0; j < columns; j++) {
            const Vector y = few[m * few_columns + j] - Vector{};
            #pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[j][v] += x[v] * y;
        }
    }
    #pragma GCC unroll 16
    for (int j = 0; j < columns; j++)
        #pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) *(Unaligned*)(sums + j * sums_row + v * lanes) = sum[j][v];
}

template <int vectors>
static auto outer_tile_of(int64 columns) -> decltype(&outer_tile<1, vectors>) {
    switch (columns) {
    case 1: return outer_tile<1, vectors>;
    case 2: return outer_tile<2, vectors>;
    case 3: return outer_tile<3, vectors>;
    case 4: return outer_tile<4, vectors>;
    case 5: return outer_tile<5, vectors>;
    case 6: return outer_tile<6, vectors>;
    case 7: return outer_tile<7, vectors>;
    case 8: return outer_tile<8, vectors>;
    case 9: return outer_tile<9, vectors>;
    default: return outer_tile<10, vectors>;
    }
}

static int64 rounded_up(int64 columns) { return (columns + lanes - 1) / lanes * lanes; }

int64 outer_product_scratch(int64 columns, int64 few_columns) {
    return omp_get_max_threads() * few_columns * rounded_up(columns);
}

void outer_product_with_few(
    const float* large, int64 columns, const float* few, int64 few_columns, int64 m, float* result, int64 along_j,
    int64 along_i, float* scratch
) {
    const int64 sums_row = rounded_up(columns), at_once = outer_vectors * lanes;
    const int64 blocks = (few_columns + most_outer_columns - 1) / most_outer_columns;
    const int64 block = (few_columns + blocks - 1) / blocks;
    #pragma omp parallel if (worth_two_threads(columns * few_columns * m, thin_products))
    {
        // every thread adds its own rows up, which lie beside one another
        const int64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64 begin = m * thread / threads, end = m * (thread + 1) / threads;
        float* sums = scratch + thread * few_columns * sums_row;
        // from the last rows back, which an inner product with large has just left in the core's cache
        for (int64 part = std::max((end - begin - 1) / rows_at_once, (int64)0); part >= 0; part--) {
            const int64 start = begin + part * rows_at_once, rows = std::min(rows_at_once, end - start);
            const bool first = start + rows_at_once >= end;
            for (int64 i = 0; i < columns; i += at_once) {
                const int64 left = std::min(at_once, columns - i);
                for (int64 j = 0; j < few_columns; j += block) {
                    const int64 wide = std::min(block, few_columns - j);
                    (left > lanes ? outer_tile_of<2>(wide) : outer_tile_of<1>(wide))(
                        large + start * columns + i, columns, few + start * few_columns + j, few_columns, rows,
                        left > lanes ? left - lanes : left, sums + j * sums_row + i, sums_row, first
                    );
                }
            }
        }
        #pragma omp barrier
        #pragma omp for
        for (int64 j = 0; j < few_columns; j++)
            for (int64 i = 0; i < columns; i++) {
                float sum = scratch[j * sums_row + i];
                for (int64 t = 1; t < threads; t++) sum += scratch[(t * few_columns + j) * sums_row + i];
                result[j * along_j + i * along_i] = sum;
            }
    }
}

} // namespace jboat

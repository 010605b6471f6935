#include "outer_product.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "onednn.h"
#include "scratch.h"
#include "thin_product.h"

namespace jboat {

typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(lanes * sizeof(float)), aligned(sizeof(float))));

// So many sums, and what they are made of, fit the registers of a processor with AVX-512.
static const int tile_rows = 8, tile_vectors = 3;
static const int64 tile_columns = tile_vectors * lanes;
// So many rows of both factors are laid out at once, in the order in which tiles read them. They stay in the core's cache, beside
// the sums and the rows that come next, which are fetched meanwhile: that is what makes it faster than oneDNN.
static const int64 rows_at_once = 160;
static const int64 numbers_of_line = cache_line / sizeof(float);

namespace {

// What is fetched into the core's cache while a tile is computed.
struct Ahead {
    const float* next;
    int64 lines;
};

// The rows and columns of the result that one thread computes.
struct Piece {
    int64 first_row, rows, first_column, columns;
};

} // namespace

static int64 divided_up(int64 count, int64 size) { return (count + size - 1) / size; }

static inline void store(float* to, Vector sum, int64 count, bool first) {
    if (count >= lanes) {
        *(Unaligned*)to = first ? sum : *(const Unaligned*)to + sum;
    } else {
        for (int64 j = 0; j < count; j++) to[j] = first ? sum[j] : to[j] + sum[j];
    }
}

// The first sums of a tile, or what is added to them. The result has rows and columns of the tile alone.
template <int vectors>
static void outer_tile(
    const float* a, const float* b, int64 depth, float* result, int64 along_i, int64 rows, int64 columns, bool first, Ahead ahead
) {
    Vector sum[tile_rows][vectors] = {};
    for (int64 m = 0; m < depth; m++) {
        if (m % 4 == 0 && ahead.lines > 0) {
            __builtin_prefetch(ahead.next, 0, 2);
            ahead.next += numbers_of_line;
            ahead.lines--;
        }
        Vector y[vectors];
        #pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) y[v] = *(const Unaligned*)(b + m * tile_columns + v * lanes);
        #pragma GCC unroll 8
        for (int i = 0; i < tile_rows; i++) {
            const Vector x = a[m * tile_rows + i] - Vector{};
            #pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sum[i][v] += x * y[v];
        }
    }
    #pragma GCC unroll 8
    for (int i = 0; i < tile_rows; i++)
        #pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            if (i < rows) store(result + i * along_i + v * lanes, sum[i][v], columns - v * lanes, first);
}

// Columns of so many rows, in blocks of so many numbers, which lie one behind another, the last with zeros behind its own.
template <int64 width>
static void lay_out(const float* from, int64 row, int64 rows, int64 columns, float* to) {
    const int64 whole = columns / width * width;
    for (int64 m = 0; m < rows; m++, from += row, to += width) {
        for (int64 j = 0; j < whole; j += width) memcpy(to + j * rows_at_once, from + j, width * sizeof(float));
        if (whole == columns) continue;
        float* last = to + whole * rows_at_once;
        for (int64 j = 0; j < width; j++) last[j] = whole + j < columns ? from[whole + j] : 0.f;
    }
}

static int64 laid_out(int64 columns, int64 width) { return divided_up(columns, width) * width * rows_at_once; }

static void compute_piece(
    const float* a, const float* b, int64 n, int64 k, int64 m, const Piece& piece, float* result, float* a_blocks, float* b_blocks
) {
    const int64 tiles = divided_up(piece.rows, tile_rows) * divided_up(piece.columns, tile_columns);
    const float *a_part = a + piece.first_row, *b_part = b + piece.first_column;
    float* sums = result + piece.first_row * k + piece.first_column;
    for (int64 start = 0; start < m; start += rows_at_once) {
        const int64 depth = std::min(rows_at_once, m - start), next = std::min(rows_at_once, m - start - depth);
        lay_out<tile_rows>(a_part + start * n, n, depth, piece.rows, a_blocks);
        lay_out<tile_columns>(b_part + start * k, k, depth, piece.columns, b_blocks);
        int64 tile = 0;
        for (int64 j = 0; j < piece.columns; j += tile_columns)
            for (int64 i = 0; i < piece.rows; i += tile_rows) {
                // every tile fetches a row of either factor
                const int64 part = tile++ * 2 * next / tiles, row = start + depth + part / 2;
                const Ahead ahead = !next       ? Ahead{nullptr, 0}
                                    : part % 2 ? Ahead{a_part + row * n, divided_up(piece.rows, numbers_of_line)}
                                               : Ahead{b_part + row * k, divided_up(piece.columns, numbers_of_line)};
                const int64 columns = std::min(tile_columns, piece.columns - j);
                (columns > 2 * lanes ? outer_tile<3> : columns > lanes ? outer_tile<2> : outer_tile<1>)(
                    a_blocks + i * rows_at_once, b_blocks + j * rows_at_once, depth, sums + i * k + j, k, piece.rows - i, columns,
                    start == 0, ahead
                );
            }
    }
}

void outer_product(const float* a, const float* b, int64 n, int64 k, int64 m, float* result) {
    const int64 threads = omp_get_max_threads(), row_tiles = divided_up(n, tile_rows), vectors = divided_up(k, lanes);
    const int64 by_columns = std::max((int64)1, std::min(threads, k / tile_columns));
    const int64 by_rows = std::max((int64)1, std::min(threads / by_columns, row_tiles));
    const int64 a_numbers = laid_out(divided_up(row_tiles, by_rows) * tile_rows, tile_rows);
    const int64 b_numbers = laid_out(divided_up(vectors, by_columns) * lanes, tile_columns);
    const Scratch scratch(by_rows * by_columns * (a_numbers + b_numbers) * sizeof(float) + cache_line);
    #pragma omp parallel for schedule(static)
    for (int64 p = 0; p < by_rows * by_columns; p++) {
        auto edge = [](int64 count, int64 place, int64 places, int64 size, int64 end) {
            return std::min(count * place / places * size, end);
        };
        const int64 r = p / by_columns, c = p % by_columns;
        const int64 row = edge(row_tiles, r, by_rows, tile_rows, n), column = edge(vectors, c, by_columns, lanes, k);
        const Piece piece{
            row, edge(row_tiles, r + 1, by_rows, tile_rows, n) - row, column, edge(vectors, c + 1, by_columns, lanes, k) - column
        };
        float* blocks = (float*)aligned(scratch.memory) + p * (a_numbers + b_numbers);
        compute_piece(a, b, n, k, m, piece, result, blocks, blocks + a_numbers);
    }
}

} // namespace jboat

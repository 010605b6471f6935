#include "product.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <stdexcept>

#include "onednn.h"
#include "scratch.h"
#include "thin_product.h"
#include "threads.h"

namespace jboat {

using dnnl::memory;

// With vectors of 16 numbers, oneDNN has programs for layers that are faster than those for products of matrices, which
// pays for laying the right factor out anew where it is small beside the left one.
#ifdef __AVX512F__
static const int64 rows_a_column_to_lay_out = 16;
#else
static const int64 rows_a_column_to_lay_out = std::numeric_limits<int64>::max();
#endif
// From so many columns on, oneDNN computes what outer_product_with_few does just as fast.
static const int64 enough_columns = 13;

// from[rows, columns] to to[columns, rows]
static void transpose(const float* from, int64 rows, int64 columns, float* to) {
    const int64 block = 16;
    #pragma omp parallel for if (worth_two_threads(rows * columns, transposing))
    for (int64 first_j = 0; first_j < columns; first_j += block)
        for (int64 first_i = 0; first_i < rows; first_i += block)
            for (int64 j = first_j; j < std::min(columns, first_j + block); j++)
                for (int64 i = first_i; i < std::min(rows, first_i + block); i++) to[j * rows + i] = from[i * columns + j];
}

// result[i, j] = sum over m of large[i, m] few[j, m], where in memory m is the first axis of the factors that are turned, and
// the result's entries are so far from one another along i and j. False if oneDNN does it better.
static bool multiply_by_few(
    const float* large, bool large_turned, const float* few, bool few_turned, int64 rows, int64 few_rows, int64 m,
    float* result, int64 along_i, int64 along_j
) {
    if (m < lanes || (large_turned && along_i == 1 && few_rows >= enough_columns)) return false;
    const bool turn = few_turned != large_turned;
    const int64 for_sums = large_turned ? outer_product_scratch(rows, few_rows) : 0;
    const Scratch scratch((for_sums + (turn ? few_rows * m : 0)) * sizeof(float));
    float* turned = scratch.numbers() + for_sums;
    if (turn) transpose(few, few_turned ? m : few_rows, few_turned ? few_rows : m, turned);
    const float* factor = turn ? turned : few;
    if (large_turned) outer_product_with_few(large, rows, factor, few_rows, m, result, along_j, along_i, scratch.numbers());
    else inner_product_with_few(large, rows, factor, few_rows, m, result, along_i, along_j);
    return true;
}

namespace {

// How oneDNN computes a layer: the weights as it wants them, and the programs that lay them out and that compute.
struct Layer {
    memory::desc x, given, wanted, bias, y;
    dnnl::primitive lay_out, compute;
};

Layer make_layer(bool trans_b, int64 n, int64 k, int64 m, bool bias) {
    using namespace dnnl;
    const auto f32 = memory::data_type::f32;
    using tag = memory::format_tag;
    Layer layer;
    layer.x = {{n, m}, f32, tag::ab};
    layer.given = {{k, m}, f32, trans_b ? tag::ab : tag::ba};
    layer.y = {{n, k}, f32, tag::ab};
    if (bias) layer.bias = {{k}, f32, tag::a};
    const memory::desc any({k, m}, f32, tag::any);
    const inner_product_forward::primitive_desc program(
        {prop_kind::forward_inference, layer.x, any, layer.bias, layer.y}, engine()
    );
    layer.wanted = program.weights_desc();
    layer.lay_out = reorder(reorder::primitive_desc(engine(), layer.given, engine(), layer.wanted));
    layer.compute = inner_product_forward(program);
    return layer;
}

} // namespace

// The product of a, not transposed, and b, with a bias or null.
static void multiply_as_layer(
    const float* a, const float* b, const float* bias, bool trans_b, int64 n, int64 k, int64 m, float* result
) {
    static std::map<std::array<int64, 5>, Layer> layers;
    static dnnl::stream stream(engine());
    const std::array<int64, 5> key{trans_b, n, k, m, bias != nullptr};
    auto found = layers.find(key);
    if (found == layers.end() && layers.size() == most_plans) layers.clear();
    if (found == layers.end()) found = layers.emplace(key, make_layer(trans_b, n, k, m, bias)).first;
    Layer& layer = found->second;

    auto at = [](const memory::desc& described, const void* place) { return memory(described, engine(), (void*)place); };
    const Scratch scratch(layer.wanted.get_size() + cache_line);
    const memory weights = at(layer.wanted, aligned(scratch.memory));
    layer.lay_out.execute(stream, {{DNNL_ARG_FROM, at(layer.given, b)}, {DNNL_ARG_TO, weights}});
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, at(layer.x, a)}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, at(layer.y, result)}
    };
    if (bias) arguments[DNNL_ARG_BIAS] = at(layer.bias, bias);
    layer.compute.execute(stream, arguments);
    stream.wait();
}

void multiply(
    const float* a, const float* b, const float* bias, bool trans_a, bool trans_b, int64 n, int64 k, int64 m, float* result
) {
    if (!n || !k) return;
    const bool few_columns = k <= most_of_few && k <= n, few_rows = n <= most_of_few && n < k;
    if (!m) {
        std::fill(result, result + n * k, 0.f);
    } else if (
        !(few_columns && multiply_by_few(a, trans_a, b, !trans_b, n, k, m, result, k, 1)) &&
        !(few_rows && multiply_by_few(b, !trans_b, a, trans_a, k, n, m, result, 1, k))
    ) {
        if (!trans_a && n / k >= rows_a_column_to_lay_out) return multiply_as_layer(a, b, bias, trans_b, n, k, m, result);
        auto status = dnnl_sgemm(
            trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', n, k, m, 1.f, a, trans_a ? n : m, b, trans_b ? m : k, 0.f, result, k
        );
        if (status != dnnl_success) throw std::runtime_error("oneDNN has refused a product of matrices");
    }
    if (!bias) return;
    #pragma omp parallel for if (worth_two_threads(n * k, adding_bias))
    for (int64 i = 0; i < n; i++)
        for (int64 j = 0; j < k; j++) result[i * k + j] += bias[j];
}

} // namespace jboat

#include <dnnl.hpp>

#include <algorithm>
#include <limits>

#include "executor.h"
#include "matrix_product_op.h"
#include "ops/op_register.h"
#include "thin_product.h"
#include "var.h"

namespace jittor {

// With vectors of 16 numbers, oneDNN reads a right factor row by row faster than column by column, which pays for turning
// one that is small beside the left one.
#ifdef __AVX512F__
static const int64 rows_a_column_to_turn = 16;
#else
static const int64 rows_a_column_to_turn = std::numeric_limits<int64>::max();
#endif
// From so many columns on, oneDNN computes what outer_product_with_few does just as fast.
static const int64 enough_columns = 13;
static const int64 worth_two_threads = 1 << 14;

static VarPtr product(Var* a, Var* b, bool trans_a, bool trans_b) {
    static auto make = get_op_info("matrix_product").get_constructor<VarPtr, Var*, Var*, bool, bool>();
    return make(a, b, trans_a, trans_b);
}

// c[n, k], of sums of m numbers, by oneDNN
static void multiply(bool trans_a, bool trans_b, int64 n, int64 k, int64 m, const float* a, const float* b, float* c) {
    auto status = dnnl_sgemm(
        trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', n, k, m, 1.f, a, trans_a ? n : m, b, trans_b ? m : k, 0.f, c, k
    );
    ASSERTop(status,==,dnnl_success);
}

// from[rows, columns] to to[columns, rows]
static void transpose(const float* from, int64 rows, int64 columns, float* to) {
    const int64 block = 16;
    #pragma omp parallel for if (rows * columns > worth_two_threads)
    for (int64 first_j = 0; first_j < columns; first_j += block)
        for (int64 first_i = 0; first_i < rows; first_i += block)
            for (int64 j = first_j; j < std::min(columns, first_j + block); j++)
                for (int64 i = first_i; i < std::min(rows, first_i + block); i++) to[j * rows + i] = from[i * columns + j];
}

// result[i, j] = sum over m of large[i, m] few[j, m], where in memory m is the first axis of the factors that are turned, and
// the result's entries are so far from one another along i and j. False if oneDNN does it better.
static bool multiply_by_few(
    const float* large, bool large_turned, const float* few, bool few_turned, int64 rows, int64 few_rows, int64 m, float* result,
    int64 along_i, int64 along_j
) {
    if (m < lanes || (large_turned && along_i == 1 && few_rows >= enough_columns)) return false;
    const bool turn = few_turned != large_turned;
    const int64 for_sums = large_turned ? outer_product_scratch(rows, few_rows) : 0;
    Allocation scratch = exe.alloc_temp((for_sums + (turn ? few_rows * m : 1)) * sizeof(float));
    float* turned = (float*)scratch.ptr + for_sums;
    if (turn) transpose(few, few_turned ? m : few_rows, few_turned ? few_rows : m, turned);
    const float* factor = turn ? turned : few;
    if (large_turned)
        outer_product_with_few(large, rows, factor, few_rows, m, result, along_j, along_i, (float*)scratch.ptr);
    else
        inner_product_with_few(large, rows, factor, few_rows, m, result, along_i, along_j);
    return true;
}

MatrixProductOp::MatrixProductOp(Var* a, Var* b, bool trans_a, bool trans_b)
    : a(a), b(b), trans_a(trans_a), trans_b(trans_b) {
    flags.set(NodeFlags::_cpu);
    // unless told, Jittor keeps the product and both factors until there can be no gradient any more
    flags.set(NodeFlags::_manual_set_vnbb);
    if (!b->is_stop_grad()) a->flags.set(NodeFlags::_needed_by_backward);
    if (!a->is_stop_grad()) b->flags.set(NodeFlags::_needed_by_backward);
    c = create_output(nullptr, a->dtype());
}

void MatrixProductOp::infer_shape() {
    ASSERTop(a->shape[!trans_a],==,b->shape[trans_b]);
    c->set_shape({a->shape[trans_a], b->shape[!trans_b]});
}

VarPtr MatrixProductOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    if (v_index == 0)
        return trans_a ? product(b, dout, trans_b, true) : product(dout, b, false, !trans_b);
    return trans_b ? product(dout, a, true, trans_a) : product(a, dout, !trans_a, false);
}

void MatrixProductOp::run() {
    const int64 n = c->shape[0], k = c->shape[1], m = a->shape[!trans_a];
    const float* left = a->ptr<float>(), * right = b->ptr<float>();
    float* result = c->ptr<float>();
    if (k <= most_of_few && k <= n && multiply_by_few(left, trans_a, right, !trans_b, n, k, m, result, k, 1)) return;
    if (n <= most_of_few && n < k && multiply_by_few(right, !trans_b, left, trans_a, k, n, m, result, 1, k)) return;
    if (trans_a || !trans_b || n / k < rows_a_column_to_turn)
        return multiply(trans_a, trans_b, n, k, m, left, right, result);
    Allocation turned = exe.alloc_temp(m * k * sizeof(float));
    transpose(right, k, m, (float*)turned.ptr);
    multiply(false, false, n, k, m, left, (float*)turned.ptr, result);
}

} // jittor

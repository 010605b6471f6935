#include <dnnl.hpp>
#include <limits>
#include <omp.h>

#include "executor.h"
#include "matrix_product_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

// oneDNN fills its vectors along the rows of c, 16 numbers each, or 8. A product with few columns, such as one for each
// class, leaves much of them empty; its transpose does not. With less than 16 rows oneDNN reads op(a) where it lies,
// instead of copying it first, and is fastest with 12.
//
// With vectors of 16 numbers, oneDNN reads a right factor row by row faster than column by column, which pays for turning
// one that is small beside the left one.
#ifdef __AVX512F__
static const int64 few_columns = 24;
static const int64 rows_a_column_to_turn = 16;
#else
static const int64 few_columns = 12;
static const int64 rows_a_column_to_turn = std::numeric_limits<int64>::max();
#endif
static const int64 rows_at_once = 12;
// Of the left factor so much is read by all panels before the next part, that it stays in the cores' own caches.
static const int64 numbers_a_thread = 200000;

static VarPtr product(Var* a, Var* b, bool trans_a, bool trans_b) {
    static auto make = get_op_info("matrix_product").get_constructor<VarPtr, Var*, Var*, bool, bool>();
    return make(a, b, trans_a, trans_b);
}

// c, row by row, of a product of n rows and k columns that sums m numbers; a and b are stored in rows of so many numbers
static void multiply(
    bool trans_a, bool trans_b, int64 n, int64 k, int64 m, const float* a, int64 row_a, const float* b, int64 row_b, float* c
) {
    auto status = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', n, k, m, 1.f, a, row_a, b, row_b, 0.f, c, k);
    ASSERTop(status,==,dnnl_success);
}

// from[rows, columns] to to[columns, rows]
static void transpose(const float* from, int64 rows, int64 columns, float* to) {
    const int64 block = 16;
    for (int64 start = 0; start < columns; start += block)
        for (int64 i = 0; i < rows; i++)
            for (int64 j = start; j < std::min(columns, start + block); j++)
                to[j * rows + i] = from[i * columns + j];
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
    const int64 row_a = trans_a ? n : m;
    const float* left = a->ptr<float>();
    const float* right = b->ptr<float>();
    if (k > few_columns || n < 4 * k) {
        if (trans_a || !trans_b || n / k < rows_a_column_to_turn)
            return multiply(trans_a, trans_b, n, k, m, left, row_a, right, trans_b ? m : k, c->ptr<float>());
        Allocation turned = exe.alloc_temp(m * k * sizeof(float));
        transpose(right, k, m, (float*)turned.ptr);
        return multiply(false, false, n, k, m, left, m, (float*)turned.ptr, k, c->ptr<float>());
    }

    const int64 part = std::min(n, std::max<int64>(1, numbers_a_thread * omp_get_max_threads() / std::max<int64>(1, m)));
    Allocation scratch = exe.alloc_temp((part + m) * k * sizeof(float));
    float* transposed = (float*)scratch.ptr;
    bool turn_right = !trans_b;
    if (turn_right && !trans_a) { // the one form that is slow; the right factor is small
        transpose(right, m, k, transposed + part * k);
        right = transposed + part * k;
        turn_right = false;
    }
    for (int64 start = 0; start < n; start += part) {
        const int64 rows = std::min(part, n - start);
        for (int64 i = 0; i < k; i += rows_at_once)
            multiply(turn_right, !trans_a, std::min(rows_at_once, k - i), rows, m, right + i * (turn_right ? 1 : m),
                turn_right ? k : m, left + start * (trans_a ? 1 : row_a), row_a, transposed + i * rows);
        transpose(transposed, k, rows, c->ptr<float>() + start * k);
    }
}

} // jittor

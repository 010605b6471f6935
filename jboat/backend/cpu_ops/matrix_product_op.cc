#include "checks.h"
#include "matrix_product_op.h"
#include "ops/op_register.h"
#include "product.h"
#include "var.h"

namespace jittor {

static VarPtr product(Var* a, Var* b, bool trans_a, bool trans_b) {
    static auto make = get_op_info("matrix_product").get_constructor<VarPtr, Var*, Var*, bool, bool>();
    return make(a, b, trans_a, trans_b);
}

MatrixProductOp::MatrixProductOp(Var* a, Var* b, bool trans_a, bool trans_b) : a(a), b(b), trans_a(trans_a), trans_b(trans_b) {
    if (a->shape.size() == 3) {
        check_array(a, "matrix_product", "a", {any, any, any});
        check_array(b, "matrix_product", "b", {a->shape[0], trans_b ? any : m(), trans_b ? m() : any});
        check_sizes("matrix_product", {a->shape[0], n(), k()});
    } else {
        check_array(a, "matrix_product", "a", {any, any});
        check_array(b, "matrix_product", "b", {trans_b ? any : m(), trans_b ? m() : any});
        check_sizes("matrix_product", {n(), k()});
    }
    flags.set(NodeFlags::_cpu);
    // unless told, Jittor keeps the product and both factors until there can be no gradient any more
    flags.set(NodeFlags::_manual_set_vnbb);
    if (!b->is_stop_grad()) a->flags.set(NodeFlags::_needed_by_backward);
    if (!a->is_stop_grad()) b->flags.set(NodeFlags::_needed_by_backward);
    c = create_output(nullptr, ns_float32);
}

void MatrixProductOp::infer_shape() {
    if (a->shape.size() == 3) c->set_shape({a->shape[0], n(), k()});
    else c->set_shape({n(), k()});
}

VarPtr MatrixProductOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    VarPtr by_c = cotangent(dout, out);
    if (v_index == 0) return trans_a ? product(b, by_c, trans_b, true) : product(by_c, b, false, !trans_b);
    return trans_b ? product(by_c, a, true, trans_a) : product(a, by_c, !trans_a, false);
}

void MatrixProductOp::run() {
    const int64 products = a->shape.size() == 3 ? a->shape[0] : 1;
    const float *left = numbers_of(a), *right = numbers_of(b);
    float* result = numbers_of(c);
    for (int64 i = 0; i < products; i++, left += n() * m(), right += m() * k(), result += n() * k())
        jboat::multiply(left, right, nullptr, trans_a, trans_b, n(), k(), m(), result);
}

} // namespace jittor

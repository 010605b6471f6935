#include "checks.h"
#include "linear_gradients_op.h"
#include "ops/op_register.h"
#include "product.h"
#include "sums.h"
#include "var.h"

namespace jittor {

LinearGradientsOp::LinearGradientsOp(Var* dout, Var* x) : dout(dout), x(x) {
    check_array(dout, "linear_gradients", "dout", {any, any});
    check_array(x, "linear_gradients", "x", {dout->shape[0], any});
    check_sizes("linear_gradients", {dout->shape[1], x->shape[1]});
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_grads);
    flags.set(NodeFlags::_manual_set_vnbb);
    if (!dout->is_stop_grad()) x->flags.set(NodeFlags::_needed_by_backward);
    if (!x->is_stop_grad()) dout->flags.set(NodeFlags::_needed_by_backward);
    by_weight = create_output(nullptr, ns_float32);
    by_bias = create_output(nullptr, ns_float32);
}

void LinearGradientsOp::infer_shape() {
    by_weight->set_shape({dout->shape[1], x->shape[1]});
    by_bias->set_shape({dout->shape[1]});
}

void LinearGradientsOp::grads(Var** along, VarPtr* dins) {
    static auto product = get_op_info("matrix_product").get_constructor<VarPtr, Var*, Var*, bool, bool>();
    static auto linear = get_op_info("linear").get_constructor<VarPtr, Var*, Var*, Var*>();
    static auto number = get_op_info("number").get_constructor<VarPtr, float, Var*>();
    static auto broadcast = get_op_info("broadcast_to").get_constructor<VarPtr, Var*, NanoVector, NanoVector>();
    VarPtr weight = cotangent(along[0], by_weight), bias = cotangent(along[1], by_bias);
    // Jittor would lose what it has for an input that gets nothing
    dins[0] = weight && bias ? linear(x, weight, bias)
              : weight       ? product(x, weight, false, true)
              : bias         ? broadcast(bias, dout->shape, {0})
                             : number(0.f, dout);
    if (!x->is_stop_grad()) dins[1] = weight ? product(dout, weight, false, false) : number(0.f, x);
}

void LinearGradientsOp::run() {
    const int64 n = x->shape[0], m = x->shape[1], k = dout->shape[1];
    const float *left = numbers_of(dout), *right = numbers_of(x);
    if (!by_weight->need_free()) jboat::multiply(left, right, nullptr, true, false, k, m, n, numbers_of(by_weight));
    if (!by_bias->need_free()) jboat::add_rows_up(left, n, k, numbers_of(by_bias));
}

} // namespace jittor

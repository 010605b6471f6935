#include "checks.h"
#include "linear_op.h"
#include "ops/op_register.h"
#include "product.h"
#include "var.h"

namespace jittor {

LinearOp::LinearOp(Var* x, Var* weight, Var* bias) : x(x), weight(weight), bias(bias) {
    check_array(x, "linear", "x", {any, any});
    check_array(weight, "linear", "weight", {any, x->shape[1]});
    check_array(bias, "linear", "bias", {weight->shape[0]});
    check_sizes("linear", {x->shape[0], weight->shape[0]});
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_grads);
    flags.set(NodeFlags::_manual_set_vnbb);
    if (!weight->is_stop_grad() || !bias->is_stop_grad()) x->flags.set(NodeFlags::_needed_by_backward);
    if (!x->is_stop_grad()) weight->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void LinearOp::infer_shape() { out->set_shape({x->shape[0], weight->shape[0]}); }

void LinearOp::grads(Var** douts, VarPtr* dins) {
    static auto product = get_op_info("matrix_product").get_constructor<VarPtr, Var*, Var*, bool, bool>();
    static auto number = get_op_info("number").get_constructor<VarPtr, float, Var*>();
    static auto gradients = get_op_info("linear_gradients").get_constructor<vector<VarPtr>, Var*, Var*>();
    VarPtr dout = cotangent(douts[0], out);
    if (!dout) { // Jittor would lose what it has for an input that gets nothing
        for (int i = 0; i < 3; i++) dins[i] = number(0.f, i == 0 ? x : i == 1 ? weight : bias);
        return;
    }
    if (!x->is_stop_grad()) dins[0] = product(dout, weight, false, false);
    if (weight->is_stop_grad() && bias->is_stop_grad()) return;
    vector<VarPtr> found = gradients(dout, x);
    for (int i = 0; i < 2; i++) dins[1 + i] = move(found[i]);
}

void LinearOp::run() {
    jboat::multiply(
        numbers_of(x), numbers_of(weight), numbers_of(bias), false, true, out->shape[0], out->shape[1], x->shape[1],
        numbers_of(out)
    );
}

} // namespace jittor

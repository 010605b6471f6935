#include "checks.h"
#include "linear_algebra.h"
#include "ops/op_register.h"
#include "scaled_op.h"
#include "var.h"

namespace jittor {

ScaledOp::ScaledOp(Var* x, Var* s) : x(x), s(s) {
    check_float32(x, "scaled", "x");
    check_array(s, "scaled", "s", {1});
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    x->flags.set(NodeFlags::_needed_by_backward);
    s->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void ScaledOp::infer_shape() { out->set_shape(x->shape); }

VarPtr ScaledOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto scaled = get_op_info("scaled").get_constructor<VarPtr, Var*, Var*>();
    static auto inner_product = get_op_info("inner_product").get_constructor<VarPtr, vector<Var*>&&, bool>();
    VarPtr by_out = cotangent(dout, out);
    return v_index == 0 ? scaled(by_out, s) : inner_product({by_out, x}, false);
}

void ScaledOp::run() { jboat::scaled(numbers_of(x), numbers_of(s)[0], out->num, numbers_of(out)); }

} // namespace jittor

#include "checks.h"
#include "combination_op.h"
#include "linear_algebra.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

CombinationOp::CombinationOp(vector<Var*>&& inputs, float64 scale, float64 other_scale)
    : in(inputs), scale(scale), other_scale(other_scale) {
    REQUIRE(in.size() == 1 || in.size() == 2, "combination: inputs must be one or two, but are ", in.size());
    for (Var* v : in) check_float32(v, "combination", "an input");
    check_same_shape(in[0], in.back(), "combination");
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
}

void CombinationOp::infer_shape() { out->set_shape(in[0]->shape); }

VarPtr CombinationOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("combination").get_constructor<VarPtr, vector<Var*>&&, float64, float64>();
    const float64 of_this = v_index ? other_scale : scale;
    VarPtr by_out = cotangent(dout, out);
    return of_this == 1.0 ? by_out : make({by_out}, of_this, 0.0);
}

void CombinationOp::run() {
    const float* a = numbers_of(in[0]);
    float* to = numbers_of(out);
    if (in.size() == 1) jboat::scaled(a, scale, out->num, to);
    else jboat::combined(a, scale, numbers_of(in[1]), other_scale, out->num, to);
}

} // namespace jittor

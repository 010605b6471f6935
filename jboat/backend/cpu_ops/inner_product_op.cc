#include "checks.h"
#include "inner_product_op.h"
#include "linear_algebra.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

InnerProductOp::InnerProductOp(vector<Var*>&& inputs, bool starts_gradient) : in(inputs), starts_gradient(starts_gradient) {
    REQUIRE(in.size() && in.size() % 2 == 0, "inner_product: inputs must be pairs, but are ", in.size());
    for (Var* v : in) check_float32(v, "inner_product", "an input");
    for (size_t i = 0; i < in.size() / 2; i++) check_same_shape(in[i], in[i + in.size() / 2], "inner_product");
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    for (Var* v : in) v->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void InnerProductOp::infer_shape() { out->set_shape({1}); }

VarPtr InnerProductOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto scaled = get_op_info("scaled").get_constructor<VarPtr, Var*, Var*>();
    Var* partner = in[(v_index + in.size() / 2) % in.size()];
    return starts_gradient ? VarPtr(partner) : scaled(partner, cotangent(dout, out));
}

void InnerProductOp::run() {
    double total = 0;
    const size_t pairs = in.size() / 2;
    for (size_t i = 0; i < pairs; i++)
        total = jboat::inner_product(numbers_of(in[i]), numbers_of(in[i + pairs]), in[i]->num, total);
    numbers_of(out)[0] = total;
}

} // namespace jittor

#include "checks.h"
#include "inner_product_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 16;
static const int64 block = 1 << 12; // summed in float32, the blocks in float64

InnerProductOp::InnerProductOp(vector<Var*>&& inputs, bool starts_gradient)
    : in(inputs), starts_gradient(starts_gradient) {
    REQUIRE(in.size() && in.size() % 2 == 0, "inner_product: inputs must be pairs, but are ", in.size());
    for (Var* v : in) check_float32(v, "inner_product", "an input");
    for (size_t i = 0; i < in.size() / 2; i++) check_same_shape(in[i], in[i + in.size() / 2], "inner_product");
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    for (Var* v : in) v->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void InnerProductOp::infer_shape() {
    out->set_shape({1});
}

VarPtr InnerProductOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto scaled = get_op_info("scaled").get_constructor<VarPtr, Var*, Var*>();
    Var* partner = in[(v_index + in.size() / 2) % in.size()];
    return starts_gradient ? VarPtr(partner) : scaled(partner, cotangent(dout, out));
}

void InnerProductOp::run() {
    double total = 0;
    for (size_t k = 0; k < in.size() / 2; k++) {
        const float* a = in[k]->ptr<float>(), * b = in[k + in.size() / 2]->ptr<float>();
        const int64 n = in[k]->num;
        #pragma omp parallel for reduction(+:total) if (n > worth_two_threads)
        for (int64 start = 0; start < n; start += block) {
            const int64 end = std::min(n, start + block);
            float sum = 0;
            for (int64 i = start; i < end; i++) sum += a[i] * b[i];
            total += sum;
        }
    }
    out->ptr<float>()[0] = total;
}

} // jittor

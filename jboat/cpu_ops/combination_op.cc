#include "checks.h"
#include "combination_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 16;

CombinationOp::CombinationOp(vector<Var*>&& inputs, float64 scale, float64 other_scale)
    : in(inputs), scale(scale), other_scale(other_scale) {
    REQUIRE(in.size() == 1 || in.size() == 2, "combination: inputs must be one or two, but are ", in.size());
    for (Var* v : in) check_float32(v, "combination", "an input");
    check_same_shape(in[0], in.back(), "combination");
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
}

void CombinationOp::infer_shape() {
    out->set_shape(in[0]->shape);
}

VarPtr CombinationOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("combination").get_constructor<VarPtr, vector<Var*>&&, float64, float64>();
    const float64 of_this = v_index ? other_scale : scale;
    VarPtr by_out = cotangent(dout, out);
    return of_this == 1.0 ? by_out : make({by_out}, of_this, 0.0);
}

void CombinationOp::run() {
    const int64 n = out->num;
    const float s = scale, t = other_scale;
    const float* a = in[0]->ptr<float>(), * b = in.back()->ptr<float>();
    float* to = out->ptr<float>();
    if (in.size() == 1) {
        #pragma omp parallel for simd if (parallel: n > worth_two_threads)
        for (int64 i = 0; i < n; i++) to[i] = s * a[i];
    } else {
        #pragma omp parallel for simd if (parallel: n > worth_two_threads)
        for (int64 i = 0; i < n; i++) to[i] = s * a[i] + t * b[i];
    }
}

} // jittor

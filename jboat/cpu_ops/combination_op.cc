#include "combination_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 16;

CombinationOp::CombinationOp(vector<Var*>&& inputs, float64 scale, float64 other_scale)
    : in(inputs), scale(scale), other_scale(other_scale) {
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
}

void CombinationOp::infer_shape() {
    ASSERTop(in[0]->num,==,in.back()->num);
    out->set_shape(in[0]->shape);
}

VarPtr CombinationOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("combination").get_constructor<VarPtr, vector<Var*>&&, float64, float64>();
    const float64 of_this = v_index ? other_scale : scale;
    return of_this == 1.0 ? VarPtr(dout) : make({dout}, of_this, 0.0);
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

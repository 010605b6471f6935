#include "ops/op_register.h"
#include "rectified_op.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 15;

RectifiedOp::RectifiedOp(vector<Var*>&& inputs) : in(inputs) {
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
    (in.size() == 1 ? out : in[0])->flags.set(NodeFlags::_needed_by_backward);
}

void RectifiedOp::infer_shape() {
    out->set_shape(in[0]->shape);
}

VarPtr RectifiedOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("rectified").get_constructor<VarPtr, vector<Var*>&&>();
    if (in.size() == 1) return make({out, dout});
    return v_index == 1 ? make({in[0], dout}) : VarPtr(nullptr);
}

void RectifiedOp::run() {
    const int64 n = out->num;
    const float* y = in[0]->ptr<float>(), * from = in.back()->ptr<float>();
    float* to = out->ptr<float>();
    #pragma omp parallel for simd if (parallel: n > worth_two_threads)
    for (int64 i = 0; i < n; i++) to[i] = y[i] > 0 ? from[i] : 0.f;
}

} // jittor

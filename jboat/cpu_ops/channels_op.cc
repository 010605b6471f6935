#include "channels_op.h"
#include "checks.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 14;

ChannelsOp::ChannelsOp(Var* x, int n, int h, int w) : x(x), n(n), h(h), w(w) {
    if (x->shape.size() == 1) check_array(x, "channels", "x", {any});
    else check_array(x, "channels", "x", {n, any, h, w});
    check_sizes("channels", {n, x->shape[x->shape.size() == 4], h, w});
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
}

void ChannelsOp::infer_shape() {
    if (x->shape.size() == 1) out->set_shape({n, x->shape[0], h, w});
    else out->set_shape({x->shape[1]});
}

VarPtr ChannelsOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("channels").get_constructor<VarPtr, Var*, int, int, int>();
    return make(cotangent(dout, out), n, h, w);
}

void ChannelsOp::run() {
    const bool sums = x->shape.size() == 4;
    const int64 channels = x->shape[sums], places = (int64)h * w, images = n;
    const float* from = x->ptr<float>();
    float* to = out->ptr<float>();
    if (sums) {
        #pragma omp parallel for if (images * channels * places > worth_two_threads)
        for (int64 c = 0; c < channels; c++) {
            double total = 0;
            for (int64 i = 0; i < images; i++) {
                const float* image = from + (i * channels + c) * places;
                float sum = 0;
                for (int64 j = 0; j < places; j++) sum += image[j];
                total += sum;
            }
            to[c] = total;
        }
    } else {
        #pragma omp parallel for if (images * channels * places > worth_two_threads)
        for (int64 i = 0; i < images; i++)
            for (int64 c = 0; c < channels; c++)
                for (int64 j = 0; j < places; j++) to[(i * channels + c) * places + j] = from[c];
    }
}

} // jittor

#include "channels_op.h"
#include "checks.h"
#include "ops/op_register.h"
#include "sums.h"
#include "var.h"

namespace jittor {

ChannelsOp::ChannelsOp(Var* x, int n, int h, int w) : x(x), n(n), h(h), w(w) {
    if (x->shape.size() == 1) check_array(x, "channels", "x", {any});
    else if (x->shape.size() == 2) check_array(x, "channels", "x", {any, any});
    else if (x->shape.size() == 5) check_array(x, "channels", "x", {any, n, any, h, w});
    else check_array(x, "channels", "x", {n, any, h, w});
    check_sizes("channels", {many() ? x->shape[0] : 1, n, channels(), h, w});
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
}

void ChannelsOp::infer_shape() {
    if (many() && sums()) out->set_shape({x->shape[0], channels()});
    else if (many()) out->set_shape({x->shape[0], n, channels(), h, w});
    else if (sums()) out->set_shape({channels()});
    else out->set_shape({n, channels(), h, w});
}

VarPtr ChannelsOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("channels").get_constructor<VarPtr, Var*, int, int, int>();
    return make(cotangent(dout, out), n, h, w);
}

void ChannelsOp::run() {
    const auto compute = sums() ? jboat::add_channels_up : jboat::spread_channels;
    const int64 count = many() ? x->shape[0] : 1, places = (int64)h * w;
    const int64 few = channels(), all = n * channels() * places;
    const float* from = numbers_of(x);
    float* to = numbers_of(out);
    for (int64 i = 0; i < count; i++, from += sums() ? all : few, to += sums() ? few : all)
        compute(from, n, channels(), places, to);
}

} // namespace jittor

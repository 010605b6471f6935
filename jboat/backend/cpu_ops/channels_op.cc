#include "channels_op.h"
#include "checks.h"
#include "ops/op_register.h"
#include "sums.h"
#include "var.h"

namespace jittor {

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
    const auto compute = sums ? jboat::add_channels_up : jboat::spread_channels;
    compute(numbers_of(x), n, x->shape[sums], (int64)h * w, numbers_of(out));
}

} // namespace jittor

#pragma once
#include "op.h"

namespace jittor {

// One number per channel, x[c], in every place of [n, c, h, w]; or, of x[n, c, h, w], the sums over all but c. Each is
// the other's derivative.
struct ChannelsOp : Op {
    Var *x, *out;
    int n, h, w;
    ChannelsOp(Var* x, int n, int h, int w);

    const char* name() const override { return "channels"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

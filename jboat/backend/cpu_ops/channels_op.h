#pragma once
#include "op.h"
#include "var.h"

namespace jittor {

// One number per channel, x[c], in every place of [n, c, h, w]; or, of x[n, c, h, w], the sums over all but c. Each is
// the other's derivative. With a first axis more, x[t, c] or x[t, n, c, h, w], so many of them.
struct ChannelsOp : Op {
    Var *x, *out;
    int n, h, w;
    ChannelsOp(Var* x, int n, int h, int w);

    const char* name() const override { return "channels"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;

  private:
    bool sums() const { return x->shape.size() >= 4; }
    bool many() const { return x->shape.size() == 2 || x->shape.size() == 5; }
    int64 channels() const { return x->shape[many() + sums()]; }
};

} // namespace jittor

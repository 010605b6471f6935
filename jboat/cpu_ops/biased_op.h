#pragma once
#include "op.h"

namespace jittor {

// out[n, k] = x[n, k] + bias[k]
struct BiasedOp : Op {
    Var* x, * bias, * out;
    BiasedOp(Var* x, Var* bias);

    const char* name() const override { return "biased"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // jittor

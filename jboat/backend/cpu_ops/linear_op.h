#pragma once
#include "op.h"

namespace jittor {

// out[n, k] = x[n, m] weight[k, m]' + bias[k], float32
struct LinearOp : Op {
    Var *x, *weight, *bias, *out;
    LinearOp(Var* x, Var* weight, Var* bias);

    const char* name() const override { return "linear"; }
    void infer_shape() override;
    void grads(Var** douts, VarPtr* dins) override;
    void run() override;
};

} // namespace jittor

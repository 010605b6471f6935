#pragma once
#include "op.h"

namespace jittor {

// by_weight[k, m] = dout[n, k]' x[n, m] and by_bias[k] = sum over n of dout[n, k], float32: the derivatives of linear. What
// nobody wants is not computed.
struct LinearGradientsOp : Op {
    Var *dout, *x, *by_weight, *by_bias;
    // @attrs(multiple_outputs)
    LinearGradientsOp(Var* dout, Var* x);

    const char* name() const override { return "linear_gradients"; }
    void infer_shape() override;
    void grads(Var** along, VarPtr* dins) override;
    void run() override;
};

} // namespace jittor

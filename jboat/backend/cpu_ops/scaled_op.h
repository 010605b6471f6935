#pragma once
#include "op.h"

namespace jittor {

// x times the single number in s, float32
struct ScaledOp : Op {
    Var *x, *s, *out;
    ScaledOp(Var* x, Var* s);

    const char* name() const override { return "scaled"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

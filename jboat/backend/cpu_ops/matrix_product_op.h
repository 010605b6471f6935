#pragma once
#include "op.h"

namespace jittor {

// c[n, k] = op(a)[n, m] op(b)[m, k], float32, where op transposes if asked to
struct MatrixProductOp : Op {
    Var *a, *b, *c;
    bool trans_a, trans_b;
    // clang-format off: Jittor reads a default value that has no spaces around it
    MatrixProductOp(Var* a, Var* b, bool trans_a=false, bool trans_b=false);
    // clang-format on

    const char* name() const override { return "matrix_product"; }
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void infer_shape() override;
    void run() override;
};

} // namespace jittor

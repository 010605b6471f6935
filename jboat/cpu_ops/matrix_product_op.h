#pragma once
#include "op.h"

namespace jittor {

// c[n, k] = op(a)[n, m] op(b)[m, k], float32, where op transposes if asked to
struct MatrixProductOp : Op {
    Var* a, * b, * c;
    bool trans_a, trans_b;
    MatrixProductOp(Var* a, Var* b, bool trans_a, bool trans_b);

    const char* name() const override { return "matrix_product"; }
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void infer_shape() override;
    void run() override;
};

} // jittor

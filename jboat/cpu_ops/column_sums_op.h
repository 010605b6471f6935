#pragma once
#include "op.h"

namespace jittor {

// out[k] = sum over n of x[n, k]
struct ColumnSumsOp : Op {
    Var* x, * out;
    ColumnSumsOp(Var* x);

    const char* name() const override { return "column_sums"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // jittor

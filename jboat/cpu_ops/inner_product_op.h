#pragma once
#include "op.h"

namespace jittor {

// the sum of all entries' products, of the inputs' first half with their second; of any shapes, float32
struct InnerProductOp : Op {
    vector<Var*> in;
    Var* out;
    InnerProductOp(vector<Var*>&& inputs);

    const char* name() const override { return "inner_product"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // jittor

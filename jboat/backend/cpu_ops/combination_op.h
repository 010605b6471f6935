#pragma once
#include "op.h"

namespace jittor {

// scale a, or scale a + other_scale b; of any shape, float32
struct CombinationOp : Op {
    vector<Var*> in;
    Var* out;
    float64 scale, other_scale;
    CombinationOp(vector<Var*>&& inputs, float64 scale, float64 other_scale);

    const char* name() const override { return "combination"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

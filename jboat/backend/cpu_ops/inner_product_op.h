#pragma once
#include "op.h"

namespace jittor {

// The sum of all entries' products, of the inputs' first half with their second; of any shapes, float32. Where it is what
// a gradient starts from, the gradient by an input is its partner itself, and no one is made to multiply it by.
struct InnerProductOp : Op {
    vector<Var*> in;
    Var* out;
    bool starts_gradient;
    // clang-format off: Jittor reads a default value that has no spaces around it
    InnerProductOp(vector<Var*>&& inputs, bool starts_gradient=false);
    // clang-format on

    const char* name() const override { return "inner_product"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

#pragma once
#include "op.h"

namespace jittor {

// x where it is positive, else 0; or, of y and several z, the sum of these where y is positive, which is the derivative, y being
// the result; float32. NaN in x or y gives NaN.
struct RectifiedOp : Op {
    vector<Var*> in;
    Var* out;
    RectifiedOp(vector<Var*>&& inputs);

    const char* name() const override { return "rectified"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

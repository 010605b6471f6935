#pragma once
#include "op.h"
#include "var.h"

namespace jittor {

// c[n, k] = op(a)[n, m] op(b)[m, k], float32, where op transposes if asked to; or so many such products, of a[t, ...] and
// b[t, ...]
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

  private:
    // the sizes of the product, and what the factors have in common
    int64 size(const Var* v, bool second) const { return v->shape[v->shape.size() - 2 + second]; }
    int64 n() const { return size(a, trans_a); }
    int64 m() const { return size(a, !trans_a); }
    int64 k() const { return size(b, !trans_b); }
};

} // namespace jittor

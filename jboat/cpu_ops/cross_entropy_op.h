#pragma once
#include "op.h"

namespace jittor {

// Softmax and cross entropy of the rows of z[n, k], float32, against labels t[n], int32 or int64, in parts that are
// derivatives of each other. Rows whose label is none of 0..k-1 do not count, unless there is NaN in them. p is the softmax of z, zero in such rows, and e has a
// one where the label is:
//   0 losses[n]         -log(p) at the label                    (z, t)
//   1 mean[1]           of v in the rows that count             (v[n], t)
//   2 softmax[n, k]     p, or that of all rows without t        (z) or (z, t)
//   3 by_scores[n, k]   p * (q - sum over j of p * q)           (p, q)
//   4 by_losses[n, k]   s * (p - e)                             (p, t, s[n])
//   5 along[n]          sum over j of u * (p - e)               (u, p, t)
//   6 spread[n]         s over the number of rows that count    (s[1], t)
//   7 scaled_rows[n, k] s * q                                   (q, s[n])
//   8 row_products[n]   sum over j of q * u                     (q, u)
struct CrossEntropyOp : Op {
    vector<Var*> in;
    Var* out;
    int part, k;
    CrossEntropyOp(vector<Var*>&& inputs, int part, int k);

    const char* name() const override { return "cross_entropy"; }
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void infer_shape() override;
    void run() override;
};

} // jittor

#pragma once
#include "op.h"

namespace jittor {

// Softmax and cross entropy of the rows of z[n, k], float32, against labels t[n], int32 or int64, in parts that are
// derivatives of each other. Rows whose label is none of 0..k-1 do not count, unless there is NaN in them. p is the softmax of z,
// zero in such rows, and e has a one where the label is:
//   losses[n]          -log(p) at the label                    (z, t)
//   mean[1]            of v in the rows that count             (v[n], t)
//   softmax[n, k]      p, or that of all rows without t        (z) or (z, t)
//   by_scores[n, k]    p * (q - sum over j of p * q)           (p, q)
//   by_losses[n, k]    s * (p - e)                             (p, t, s[n])
//   along[n]           sum over j of u * (p - e)               (u, p, t)
//   spread[n]          s over the number of rows that count    (s[1], t)
//   scaled_rows[n, k]  s * q                                   (q, s[n])
//   row_products[n]    sum over j of q * u                     (q, u)
enum class ScorePart { losses, mean, softmax, by_scores, by_losses, along, spread, scaled_rows, row_products };

struct CrossEntropyOp : Op {
    vector<Var*> in;
    Var* out;
    ScorePart part;
    int k;
    CrossEntropyOp(vector<Var*>&& inputs, string&& part, int k);

    const char* name() const override { return "cross_entropy"; }
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void infer_shape() override;
    void run() override;
};

} // namespace jittor

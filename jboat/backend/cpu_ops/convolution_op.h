#pragma once
#include "convolution.h"
#include "op.h"

namespace jittor {

// A two-dimensional convolution of x[n, i, h, w] with k[o, i, a, b], float32, in parts that are derivatives of each
// other; y[n, o, ...] has the shape of its result.
//   convolved the convolution, plus c[o] if there is one    (x, k) or (x, k, c)
//   by_x      its derivative by x along y                   (k, y)
//   by_k      its derivative by k along y                   (x, y)
// With a first axis more in all of them, the bias included, there are so many convolutions, each with a kernel of its own.
// sizes are h, w, a, b, then strides, padding and dilation of both axes.
struct ConvolutionOp : Op {
    vector<Var*> in;
    Var* out;
    jboat::ConvolutionPart part;
    jboat::Window window;
    ConvolutionOp(vector<Var*>&& inputs, string&& part, vector<int>&& sizes);

    const char* name() const override { return "convolution"; }
    void infer_shape() override;
    VarPtr grad(Var* out, Var* dout, Var* v, int v_index) override;
    void run() override;
};

} // namespace jittor

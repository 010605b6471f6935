#include <algorithm>
#include <cstring>

#include "ops/op_register.h"
#include "rectified_op.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 15;
static const int64 at_once = 1 << 10; // numbers, which stay in the core's cache while terms are added

// Jittor adds what reaches a variable from several operations by a kernel of its own, on one core. Where the terms are arrays
// in any case, perhaps of another shape, they can be added with the rest. False if one is not.
static bool find_terms(Var* sum, vector<Var*>& terms) {
    if (sum->dtype() != ns_float32) return false;
    Op* op = sum->is_finished() || sum->is_stop_grad() ? nullptr : sum->input();
    if (op && strcmp(op->name(), "reshape") == 0) return find_terms(op->inputs().front(), terms);
    if (!op || op->type() == OpType::other) {
        terms.push_back(sum);
        return true;
    }
    if (strcmp(op->name(), "binary") != 0 || op->ns != ns_add) return false;
    for (Var* term : op->inputs())
        if (!find_terms(term, terms)) return false;
    return true;
}

RectifiedOp::RectifiedOp(vector<Var*>&& inputs) : in(inputs) {
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
    (in.size() == 1 ? out : in[0])->flags.set(NodeFlags::_needed_by_backward);
}

void RectifiedOp::infer_shape() {
    out->set_shape(in[0]->shape);
}

VarPtr RectifiedOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    static auto make = get_op_info("rectified").get_constructor<VarPtr, vector<Var*>&&>();
    static auto reshape = get_op_info("reshape").get_constructor<VarPtr, Var*, NanoVector>();
    if (in.size() > 1 && v_index == 0) return VarPtr(nullptr);
    Var* result = in.size() == 1 ? out : in[0];
    vector<Var*> terms{result};
    if (!find_terms(dout, terms)) terms = {result, dout};
    VarPtr found = make(move(terms));
    return v->shape == result->shape ? found : reshape(found, v->shape);
}

// Writes, or adds to what is there, the numbers of z where y is positive, and zeros elsewhere.
template <bool add>
static inline void rectify(const float* y, const float* z, int64 n, float* to) {
    #pragma omp simd
    for (int64 i = 0; i < n; i++) to[i] = (add ? to[i] : 0.f) + (y[i] > 0 ? z[i] : 0.f);
}

void RectifiedOp::run() {
    const int64 n = out->num, parts = (n + at_once - 1) / at_once;
    const float* y = in[0]->ptr<float>();
    float* to = out->ptr<float>();
    #pragma omp parallel for if (n > worth_two_threads)
    for (int64 part = 0; part < parts; part++) {
        const int64 begin = part * at_once, count = std::min(at_once, n - begin);
        rectify<false>(y + begin, in[in.size() > 1]->ptr<float>() + begin, count, to + begin);
        for (size_t i = 2; i < in.size(); i++) rectify<true>(y + begin, in[i]->ptr<float>() + begin, count, to + begin);
    }
}

} // jittor

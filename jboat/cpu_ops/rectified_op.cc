#include <algorithm>
#include <cstring>
#include <vector>

#include "checks.h"
#include "ops/op_register.h"
#include "rectified_op.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 15;
static const int64 at_once = 1 << 10; // numbers, which stay in the core's cache while terms are added

// So much of a sum is looked at: where sums share their terms (s = s + s, twenty times), its terms may be millions.
static const size_t most_nodes = 256;

// Jittor adds what reaches a variable from several operations by a kernel of its own, on one core. Where the terms are arrays
// in any case, perhaps of another shape, they can be added with the rest. False if one is not, or if there are too many.
static bool find_terms(Var* sum, vector<Var*>& terms) {
    std::vector<Var*> left{sum};
    for (size_t nodes = 0; left.size(); nodes++) {
        Var* v = left.back();
        left.pop_back();
        if (v->dtype() != ns_float32 || nodes == most_nodes) return false;
        Op* op = v->is_finished() || v->is_stop_grad() ? nullptr : v->input();
        if (!op || (op->type() == OpType::other && strcmp(op->name(), "reshape") != 0)) {
            terms.push_back(v);
        } else if (op->type() == OpType::other) {
            left.push_back(op->inputs().front());
        } else if (strcmp(op->name(), "binary") == 0 && op->ns == ns_add) {
            left.push_back(op->_inputs.back());
            left.push_back(op->_inputs.front()); // which is the next
        } else {
            return false;
        }
    }
    return true;
}

RectifiedOp::RectifiedOp(vector<Var*>&& inputs) : in(inputs) {
    REQUIRE(in.size(), "rectified: there must be an input");
    for (Var* v : in) {
        check_float32(v, "rectified", "an input");
        REQUIRE(
            v->num == in[0]->num, "rectified: inputs must have as many numbers as the first, of the shape ",
            in_words(in[0]->shape), ", but one has the shape ", in_words(v->shape)
        );
    }
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
    VarPtr by_out = cotangent(dout, out);
    vector<Var*> terms{result};
    if (!find_terms(by_out, terms)) terms = {result, by_out};
    VarPtr found = make(move(terms));
    return v->shape == result->shape ? found : reshape(found, v->shape);
}

// Comparisons with NaN are false, so that it stays in all of these.

static inline void rectify(const float* x, int64 n, float* to) {
    #pragma omp simd
    for (int64 i = 0; i < n; i++) to[i] = x[i] <= 0 ? 0.f : x[i];
}

// Writes, or adds to what is there, the numbers of z where y is positive. Elsewhere y is zero or NaN, and so is what is added.
template <bool add>
static inline void pull_back(const float* y, const float* z, int64 n, float* to) {
    #pragma omp simd
    for (int64 i = 0; i < n; i++) to[i] = (add ? to[i] : 0.f) + (y[i] > 0 ? z[i] : y[i]);
}

void RectifiedOp::run() {
    const int64 n = out->num, parts = (n + at_once - 1) / at_once;
    const float* y = in[0]->ptr<float>();
    float* to = out->ptr<float>();
    #pragma omp parallel for if (n > worth_two_threads)
    for (int64 part = 0; part < parts; part++) {
        const int64 begin = part * at_once, count = std::min(at_once, n - begin);
        if (in.size() == 1) rectify(y + begin, count, to + begin);
        else pull_back<false>(y + begin, in[1]->ptr<float>() + begin, count, to + begin);
        for (size_t i = 2; i < in.size(); i++) pull_back<true>(y + begin, in[i]->ptr<float>() + begin, count, to + begin);
    }
}

} // jittor

#include <cstring>
#include <vector>

#include "checks.h"
#include "ops/op_register.h"
#include "rectified_op.h"
#include "rectify.h"
#include "var.h"

namespace jittor {

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

void RectifiedOp::infer_shape() { out->set_shape(in[0]->shape); }

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

void RectifiedOp::run() {
    const float* first = numbers_of(in[0]);
    if (in.size() == 1) return jboat::rectify(first, out->num, numbers_of(out));
    std::vector<const float*> terms;
    for (size_t i = 1; i < in.size(); i++) terms.push_back(numbers_of(in[i]));
    jboat::rectify_backwards(first, terms.data(), terms.size(), out->num, numbers_of(out));
}

} // namespace jittor

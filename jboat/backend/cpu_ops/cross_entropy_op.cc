#include "checks.h"
#include "cross_entropy.h"
#include "cross_entropy_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

using Part = ScorePart;

// of the parts, in their order
static const char* const names[] = {
    "losses", "mean", "softmax", "by_scores", "by_losses", "along", "spread", "scaled_rows", "row_products",
};

static VarPtr make_part(vector<Var*>&& inputs, Part part, int k) {
    static auto make = get_op_info("cross_entropy").get_constructor<VarPtr, vector<Var*>&&, string&&, int>();
    return make(move(inputs), names[(int)part], k);
}

static VarPtr combine(Var* a, Var* b, NanoString operation) {
    static auto make = get_op_info("binary").get_constructor<VarPtr, Var*, Var*, NanoString>();
    return make(a, b, operation);
}

// What the inputs of a part are.
enum class Input { labels, one_number, row_numbers, rows };

struct Inputs {
    Input kinds[3];
    size_t count;

    Inputs(Input first) : kinds{first}, count(1) {}
    Inputs(Input first, Input second) : kinds{first, second}, count(2) {}
    Inputs(Input first, Input second, Input third) : kinds{first, second, third}, count(3) {}
};

static Inputs inputs_of(Part part, size_t given) {
    switch (part) {
    case Part::losses: return {Input::rows, Input::labels};
    case Part::mean: return {Input::row_numbers, Input::labels};
    case Part::softmax: return given == 1 ? Inputs(Input::rows) : Inputs(Input::rows, Input::labels);
    case Part::by_losses: return {Input::rows, Input::labels, Input::row_numbers};
    case Part::along: return {Input::rows, Input::rows, Input::labels};
    case Part::spread: return {Input::one_number, Input::labels};
    case Part::scaled_rows: return {Input::rows, Input::row_numbers};
    default: return {Input::rows, Input::rows};
    }
}

static void check_inputs(const vector<Var*>& in, Part part, int k) {
    const char* const name = "cross_entropy";
    const Inputs wanted = inputs_of(part, in.size());
    REQUIRE(
        in.size() == wanted.count, name, ": part \"", names[(int)part], "\" has ", part == Part::softmax ? "1 or " : "",
        wanted.count, " inputs, not ", in.size()
    );
    REQUIRE(k >= 0, name, ": classes must not be negative, but are ", k);
    Var* const per_row = in[wanted.kinds[0] == Input::one_number];
    REQUIRE(per_row->shape.size(), name, ": an input has no axes");
    const int64 n = per_row->shape[0];
    for (size_t i = 0; i < in.size(); i++) {
        switch (wanted.kinds[i]) {
        case Input::labels:
            REQUIRE(
                in[i]->dtype() == ns_int32 || in[i]->dtype() == ns_int64, name, ": labels must be int32 or int64, but are ",
                in[i]->dtype().to_cstring()
            );
            check_shape(in[i], name, "labels", {n});
            break;
        case Input::one_number: check_array(in[i], name, "the derivative by a mean", {1}); break;
        case Input::row_numbers: check_array(in[i], name, "numbers of rows", {n}); break;
        case Input::rows: check_array(in[i], name, "rows of classes", {n, k}); break;
        }
    }
}

CrossEntropyOp::CrossEntropyOp(vector<Var*>&& inputs, string&& part, int k)
    : in(inputs), part(part_named<Part>(part, "cross_entropy", names)), k(k) {
    check_inputs(in, this->part, k);
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
    if (this->part == Part::softmax) out->flags.set(NodeFlags::_needed_by_backward);
    else
        for (Var* v : in) v->flags.set(NodeFlags::_needed_by_backward);
}

void CrossEntropyOp::infer_shape() {
    if (part == Part::mean) out->set_shape({1});
    else if (part == Part::spread) out->set_shape({in[1]->shape[0]});
    else if (part == Part::losses || part == Part::along || part == Part::row_products) out->set_shape({in[0]->shape[0]});
    else out->set_shape(in[0]->shape);
}

VarPtr CrossEntropyOp::grad(Var* out, Var* from_out, Var* v, int v_index) {
    VarPtr dout = cotangent(from_out, out);
    if (part == Part::losses && v_index == 0) {
        VarPtr p = make_part({in[0], in[1]}, Part::softmax, k);
        return make_part({p, in[1], dout}, Part::by_losses, k);
    }
    if (part == Part::mean && v_index == 0) return make_part({dout, in[1]}, Part::spread, k);
    if (part == Part::spread && v_index == 0) return make_part({dout, in[1]}, Part::mean, k);
    if (part == Part::softmax && v_index == 0) return make_part({out, dout}, Part::by_scores, k);
    if (part == Part::by_scores) {
        Var *p = in[0], *q = in[1];
        if (v_index == 1) return make_part({p, dout}, Part::by_scores, k);
        VarPtr p_times_q = make_part({p, q}, Part::row_products, k), p_times_dout = make_part({p, dout}, Part::row_products, k);
        VarPtr first = make_part({dout, p_times_q}, Part::scaled_rows, k);
        VarPtr second = make_part({q, p_times_dout}, Part::scaled_rows, k);
        VarPtr product = combine(dout, q, ns_multiply), rest = combine(product, first, ns_subtract);
        return combine(rest, second, ns_subtract);
    }
    if (part == Part::by_losses && v_index == 0) return make_part({dout, in[2]}, Part::scaled_rows, k);
    if (part == Part::by_losses && v_index == 2) return make_part({dout, in[0], in[1]}, Part::along, k);
    if (part == Part::along && v_index == 0) return make_part({in[1], in[2], dout}, Part::by_losses, k);
    if (part == Part::along && v_index == 1) return make_part({in[0], dout}, Part::scaled_rows, k);
    if (part == Part::scaled_rows && v_index == 0) return make_part({dout, in[1]}, Part::scaled_rows, k);
    if (part == Part::scaled_rows) return make_part({dout, in[0]}, Part::row_products, k);
    if (part == Part::row_products) return make_part({in[1 - v_index], dout}, Part::scaled_rows, k);
    return nullptr;
}

static jboat::Labels labels_in(Var* t) {
    return t->dtype() == ns_int32 ? jboat::Labels{t->ptr<int>(), nullptr} : jboat::Labels{nullptr, t->ptr<int64>()};
}

void CrossEntropyOp::run() {
    const int64 n = in[part == Part::spread]->shape[0];
    auto numbers = [&](int i) { return numbers_of(in[i]); };
    auto labels = [&](int i) { return labels_in(in[i]); };
    float* to = numbers_of(out);
    switch (part) {
    case Part::losses: return jboat::losses(numbers(0), labels(1), n, k, to);
    case Part::mean: return jboat::mean(numbers(0), labels(1), n, k, to);
    case Part::softmax: return jboat::softmax(numbers(0), in.size() == 2 ? labels(1) : jboat::Labels{}, n, k, to);
    case Part::by_scores: return jboat::by_scores(numbers(0), numbers(1), n, k, to);
    case Part::by_losses: return jboat::by_losses(numbers(0), labels(1), numbers(2), n, k, to);
    case Part::along: return jboat::along(numbers(0), numbers(1), labels(2), n, k, to);
    case Part::spread: return jboat::spread(*numbers(0), labels(1), n, k, to);
    case Part::scaled_rows: return jboat::scaled_rows(numbers(0), numbers(1), n, k, to);
    case Part::row_products: return jboat::row_products(numbers(0), numbers(1), n, k, to);
    }
}

} // namespace jittor

#include <cmath>

#include "checks.h"
#include "cross_entropy_op.h"
#include "executor.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

enum Part { losses, mean, softmax, by_scores, by_losses, along, spread, scaled_rows, row_products, number_of_parts };

static const int64 worth_two_threads = 1 << 14;
static const int none = -1;

static VarPtr make_part(vector<Var*>&& inputs, Part part, int k) {
    static auto make = get_op_info("cross_entropy").get_constructor<VarPtr, vector<Var*>&&, int, int>();
    return make(move(inputs), part, k);
}

static VarPtr combine(Var* a, Var* b, NanoString operation) {
    static auto make = get_op_info("binary").get_constructor<VarPtr, Var*, Var*, NanoString>();
    return make(a, b, operation);
}

// Which input holds labels, or none.
static int labels_of(int part, size_t inputs) {
    if (part == along) return 2;
    if (part == losses || part == mean || part == by_losses || part == spread) return 1;
    return part == softmax && inputs == 2 ? 1 : none;
}

// Of the shapes that cross_entropy_op.h gives.
static void check_inputs(const vector<Var*>& in, int part, int k) {
    const char* const name = "cross_entropy";
    REQUIRE(part >= 0 && part < number_of_parts, name, ": there is no part ", part);
    const size_t fewest = part == softmax ? 1 : part == by_losses || part == along ? 3 : 2, most = std::max<size_t>(fewest, 2);
    REQUIRE(in.size() >= fewest && in.size() <= most, name, ": part ", part, " has no ", in.size(), " inputs");
    REQUIRE(k >= 0, name, ": classes must not be negative, but are ", k);
    const int labels = labels_of(part, in.size());
    const bool of_losses = part == mean || part == spread;
    Var* const per_row = in[of_losses ? labels : 0];
    REQUIRE(per_row->shape.size(), name, ": an input has no axes");
    const int64 n = per_row->shape[0];
    for (int i = 0; i < (int)in.size(); i++) {
        if (i == labels) {
            const bool integers = in[i]->dtype() == ns_int32 || in[i]->dtype() == ns_int64;
            REQUIRE(integers, name, ": labels must be int32 or int64, but are ", in[i]->dtype().to_cstring());
            check_shape(in[i], name, "labels", {n});
        } else if (part == spread) {
            check_array(in[i], name, "the derivative by a mean", {1});
        } else if (part == mean || (part == by_losses && i == 2) || (part == scaled_rows && i == 1)) {
            check_array(in[i], name, "numbers of rows", {n});
        } else {
            check_array(in[i], name, "rows of classes", {n, k});
        }
    }
}

CrossEntropyOp::CrossEntropyOp(vector<Var*>&& inputs, int part, int k) : in(inputs), part(part), k(k) {
    check_inputs(in, part, k);
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, ns_float32);
    if (part == softmax)
        out->flags.set(NodeFlags::_needed_by_backward);
    else
        for (Var* v : in) v->flags.set(NodeFlags::_needed_by_backward);
}

void CrossEntropyOp::infer_shape() {
    if (part == mean) out->set_shape({1});
    else if (part == spread) out->set_shape({in[1]->shape[0]});
    else if (part == losses || part == along || part == row_products) out->set_shape({in[0]->shape[0]});
    else out->set_shape(in[0]->shape);
}

VarPtr CrossEntropyOp::grad(Var* out, Var* from_out, Var* v, int v_index) {
    VarPtr dout = cotangent(from_out, out);
    if (part == losses && v_index == 0) {
        VarPtr p = make_part({in[0], in[1]}, softmax, k);
        return make_part({p, in[1], dout}, by_losses, k);
    }
    if (part == mean && v_index == 0)
        return make_part({dout, in[1]}, spread, k);
    if (part == spread && v_index == 0)
        return make_part({dout, in[1]}, mean, k);
    if (part == softmax && v_index == 0)
        return make_part({out, dout}, by_scores, k);
    if (part == by_scores) {
        Var* p = in[0], * q = in[1];
        if (v_index == 1)
            return make_part({p, dout}, by_scores, k);
        VarPtr p_times_q = make_part({p, q}, row_products, k), p_times_dout = make_part({p, dout}, row_products, k);
        VarPtr first = make_part({dout, p_times_q}, scaled_rows, k);
        VarPtr second = make_part({q, p_times_dout}, scaled_rows, k);
        VarPtr product = combine(dout, q, ns_multiply), rest = combine(product, first, ns_subtract);
        return combine(rest, second, ns_subtract);
    }
    if (part == by_losses && v_index == 0)
        return make_part({dout, in[2]}, scaled_rows, k);
    if (part == by_losses && v_index == 2)
        return make_part({dout, in[0], in[1]}, along, k);
    if (part == along && v_index == 0)
        return make_part({in[1], in[2], dout}, by_losses, k);
    if (part == along && v_index == 1)
        return make_part({in[0], dout}, scaled_rows, k);
    if (part == scaled_rows && v_index == 0)
        return make_part({dout, in[1]}, scaled_rows, k);
    if (part == scaled_rows)
        return make_part({dout, in[0]}, row_products, k);
    if (part == row_products)
        return make_part({in[1 - v_index], dout}, scaled_rows, k);
    return nullptr;
}

// The label of a row, or none of 0..k-1.
struct Labels {
    const int* narrow;
    const int64* wide;
    int64 k;

    Labels(Var* t, int64 k)
        : narrow(t && t->dtype() == ns_int32 ? t->ptr<int>() : nullptr), wide(t && !narrow ? t->ptr<int64>() : nullptr), k(k) {}

    int64 operator[](int64 i) const { return narrow ? narrow[i] : wide[i]; }

    bool count(int64 i) const { return !(narrow || wide) || ((*this)[i] >= 0 && (*this)[i] < k); }
};

// Exponentials of the rows of z with the largest entry subtracted, which is returned for every row.
static void exponentials(const float* z, int64 rows, int64 k, float* e, float* largest) {
    for (int64 i = 0; i < rows; i++) {
        float most = k ? z[i * k] : 0.f;
        for (int64 j = 1; j < k; j++) most = z[i * k + j] > most ? z[i * k + j] : most;
        for (int64 j = 0; j < k; j++) e[i * k + j] = z[i * k + j] - most;
        largest[i] = most;
    }
    for (int64 i = 0; i < rows * k; i++) e[i] = std::exp(e[i]); // one loop, which g++ makes vector code of
}

void CrossEntropyOp::run() {
    const int64 n = in[part == spread ? 1 : 0]->shape[0], k = this->k;
    const int labels = labels_of(part, in.size());
    const Labels t(labels == none ? nullptr : in[labels], k);
    const float* first = in[0]->ptr<float>();
    float* to = out->ptr<float>();

    // A row that does not count is multiplied by zero, which leaves NaN, as everywhere below.
    if (part == mean || part == spread) {
        int64 count = 0;
        double sum = 0;
        for (int64 i = 0; i < n; i++) {
            count += t.count(i);
            if (part == mean) sum += t.count(i) ? first[i] : 0.f * first[i];
        }
        const float share = part == mean ? 0.f : first[0] / count;
        if (part == mean) to[0] = sum / count;
        else for (int64 i = 0; i < n; i++) to[i] = t.count(i) ? share : 0.f * share;
        return;
    }
    Allocation scratch = exe.alloc_temp(((part == losses ? n * (k + 1) : n) + 1) * sizeof(float));
    float* const largest = (float*)scratch.ptr;
    float* const e = part == softmax ? to : largest + n;
    const bool has_second = part == by_scores || part == along || part == row_products;
    const float* const second = has_second ? in[1]->ptr<float>() : nullptr;
    const float* const s = part == by_losses || part == scaled_rows ? in.back()->ptr<float>() : nullptr;
    const int64 rows = std::max<int64>(1, 4096 / std::max<int64>(1, k));
    #pragma omp parallel for if (n * k > worth_two_threads)
    for (int64 start = 0; start < n; start += rows) {
        const int64 end = std::min(n, start + rows);
        if (part == losses || part == softmax)
            exponentials(first + start * k, end - start, k, e + start * k, largest + start);
        for (int64 i = start; i < end; i++) {
            const float* x = first + i * k, * y = second + i * k, * exps = e + i * k;
            float* row = to + i * k;
            float sum = 0;
            switch (part) {
            case losses:
                for (int64 j = 0; j < k; j++) sum += exps[j];
                to[i] = std::log(sum) + largest[i];
                to[i] = t.count(i) ? to[i] - x[t[i]] : 0.f * to[i];
                break;
            case softmax:
                for (int64 j = 0; j < k; j++) sum += exps[j];
                sum = t.count(i) ? 1.f / sum : 0.f;
                for (int64 j = 0; j < k; j++) row[j] *= sum;
                break;
            case by_scores:
                for (int64 j = 0; j < k; j++) sum += x[j] * y[j];
                for (int64 j = 0; j < k; j++) row[j] = x[j] * (y[j] - sum);
                break;
            case by_losses:
                for (int64 j = 0; j < k; j++) row[j] = s[i] * x[j];
                if (t.count(i)) row[t[i]] -= s[i];
                break;
            case scaled_rows:
                for (int64 j = 0; j < k; j++) row[j] = s[i] * x[j];
                break;
            case row_products:
                for (int64 j = 0; j < k; j++) sum += x[j] * y[j];
                to[i] = sum;
                break;
            case along:
                for (int64 j = 0; j < k; j++) sum += x[j] * y[j];
                to[i] = t.count(i) ? sum - x[t[i]] : sum;
                break;
            }
        }
    }
}

} // jittor

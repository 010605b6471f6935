#include <cmath>

#include "cross_entropy_op.h"
#include "executor.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

enum Part { losses, mean, softmax, by_scores, by_losses, along, spread, scaled_rows, row_products };

static const int64 worth_two_threads = 1 << 14;

static VarPtr make_part(vector<Var*>&& inputs, Part part, int k) {
    static auto make = get_op_info("cross_entropy").get_constructor<VarPtr, vector<Var*>&&, int, int>();
    return make(move(inputs), part, k);
}

static VarPtr combine(Var* a, Var* b, NanoString operation) {
    static auto make = get_op_info("binary").get_constructor<VarPtr, Var*, Var*, NanoString>();
    return make(a, b, operation);
}

CrossEntropyOp::CrossEntropyOp(vector<Var*>&& inputs, int part, int k) : in(inputs), part(part), k(k) {
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

VarPtr CrossEntropyOp::grad(Var* out, Var* dout, Var* v, int v_index) {
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

// Exponentials of the rows of z with the largest entry subtracted, which is returned for every row.
static void exponentials(const float* z, int64 rows, int64 k, float* e, float* largest) {
    for (int64 i = 0; i < rows; i++) {
        float most = z[i * k];
        for (int64 j = 1; j < k; j++) most = z[i * k + j] > most ? z[i * k + j] : most;
        for (int64 j = 0; j < k; j++) e[i * k + j] = z[i * k + j] - most;
        largest[i] = most;
    }
    for (int64 i = 0; i < rows * k; i++) e[i] = std::exp(e[i]); // one loop, which g++ makes vector code of
}

void CrossEntropyOp::run() {
    const int64 n = in[part == spread ? 1 : 0]->shape[0], k = this->k;
    const bool has_labels = in.size() > 1 && part != by_scores && part != scaled_rows && part != row_products;
    const int* t = has_labels ? in[part == along ? 2 : 1]->ptr<int>() : nullptr;
    const float* first = in[0]->ptr<float>();
    float* to = out->ptr<float>();
    auto is_label = [=](int64 i) { return !t || (t[i] >= 0 && t[i] < k); };

    if (part == mean || part == spread) {
        int64 count = 0;
        double sum = 0;
        for (int64 i = 0; i < n; i++)
            if (is_label(i)) {
                count++;
                if (part == mean) sum += first[i];
            }
        if (part == mean) to[0] = sum / count;
        else for (int64 i = 0; i < n; i++) to[i] = is_label(i) ? first[0] / count : 0.f;
        return;
    }
    Allocation scratch = exe.alloc_temp((part == losses ? n * (k + 1) : n) * sizeof(float));
    float* const largest = (float*)scratch.ptr;
    float* const e = part == softmax ? to : largest + n;
    const bool has_second = part == by_scores || part == along || part == row_products;
    const float* const second = has_second ? in[1]->ptr<float>() : nullptr;
    const float* const s = part == by_losses || part == scaled_rows ? in.back()->ptr<float>() : nullptr;
    const int64 rows = std::max<int64>(1, 4096 / k);
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
                to[i] = is_label(i) ? std::log(sum) + largest[i] - x[t[i]] : 0.f;
                break;
            case softmax:
                for (int64 j = 0; j < k; j++) sum += exps[j];
                sum = is_label(i) ? 1.f / sum : 0.f;
                for (int64 j = 0; j < k; j++) row[j] *= sum;
                break;
            case by_scores:
                for (int64 j = 0; j < k; j++) sum += x[j] * y[j];
                for (int64 j = 0; j < k; j++) row[j] = x[j] * (y[j] - sum);
                break;
            case by_losses:
                for (int64 j = 0; j < k; j++) row[j] = s[i] * x[j];
                if (is_label(i)) row[t[i]] -= s[i];
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
                to[i] = is_label(i) ? sum - x[t[i]] : sum;
                break;
            }
        }
    }
}

} // jittor

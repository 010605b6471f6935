#include <algorithm>
#include <cstring>
#include <map>

#include "checks.h"
#include "convolution_op.h"
#include "executor.h"
#include "onednn.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

enum Part { convolved, by_x, by_k };
enum Role { x, k, y };

// Winograd's algorithm, which oneDNN prefers, pads channels to vectors: forwards, with 3 it takes five times as long.
static const int64 few_channels = 16;

static VarPtr make_part(vector<Var*>&& inputs, Part part, const vector<int>& sizes) {
    static auto make = get_op_info("convolution").get_constructor<VarPtr, vector<Var*>&&, int, vector<int>&&>();
    return make(move(inputs), part, vector<int>(sizes));
}

// How many places the result has along an axis.
static int64 places_along(const vector<int>& sizes, int axis) {
    const int64 reach = (int64)(sizes[2 + axis] - 1) * sizes[8 + axis] + 1;
    return (sizes[axis] + 2 * (int64)sizes[6 + axis] - reach) / sizes[4 + axis] + 1;
}

// Of the shapes that convolution_op.h gives.
static void check_inputs(const vector<Var*>& in, int part, const vector<int>& sizes) {
    const char* const name = "convolution";
    REQUIRE(part >= convolved && part <= by_k, name, ": there is no part ", part);
    REQUIRE(in.size() == 2 || (part == convolved && in.size() == 3), name, ": part ", part, " has no ", in.size(), " inputs");
    REQUIRE(sizes.size() == 10, name, ": there must be 10 sizes, but are ", sizes.size());
    for (int i = 0; i < 10; i++) {
        const int least = (i >= 4 && i < 6) || i >= 8;
        REQUIRE(sizes[i] >= least, name, ": a size, stride, padding or dilation must be at least ", least, ", not ", sizes[i]);
    }
    int64 places[2];
    for (int axis = 0; axis < 2; axis++) {
        places[axis] = places_along(sizes, axis);
        const int64 padded = sizes[axis] + 2 * (int64)sizes[6 + axis];
        const int64 reach = (int64)(sizes[2 + axis] - 1) * sizes[8 + axis] + 1;
        REQUIRE(reach <= padded, name, ": a kernel that reaches over ", reach, " places does not fit into ", padded);
    }
    Var* const first = in[0], * const second = in[1];
    check_array(first, name, "the first input", {any, any, any, any});
    check_array(second, name, "the second input", {any, any, any, any});
    const int64 h = sizes[0], w = sizes[1], a = sizes[2], b = sizes[3];
    if (part == convolved) {
        check_shape(first, name, "the images", {any, any, h, w});
        check_shape(second, name, "the kernel", {any, first->shape[1], a, b});
        if (in.size() == 3) check_array(in[2], name, "the bias", {second->shape[0]});
        check_sizes(name, {first->shape[0], second->shape[0], places[0], places[1]});
    } else if (part == by_x) {
        check_shape(first, name, "the kernel", {any, any, a, b});
        check_shape(second, name, "the derivative by the result", {any, first->shape[0], places[0], places[1]});
        check_sizes(name, {second->shape[0], first->shape[1], h, w});
    } else {
        check_shape(first, name, "the images", {any, any, h, w});
        check_shape(second, name, "the derivative by the result", {first->shape[0], any, places[0], places[1]});
        check_sizes(name, {second->shape[1], first->shape[1], a, b});
    }
}

ConvolutionOp::ConvolutionOp(vector<Var*>&& inputs, int part, vector<int>&& sizes)
    : in(inputs), part(part), sizes(sizes) {
    check_inputs(in, part, this->sizes);
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    for (int i = 0; i < 2; i++)
        if (!in[1 - i]->is_stop_grad()) in[i]->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void ConvolutionOp::infer_shape() {
    if (part == by_k) {
        out->set_shape({in[1]->shape[1], in[0]->shape[1], sizes[2], sizes[3]});
    } else if (part == by_x) {
        out->set_shape({in[1]->shape[0], in[0]->shape[1], sizes[0], sizes[1]});
    } else {
        out->set_shape({in[0]->shape[0], in[1]->shape[0], places_along(sizes, 0), places_along(sizes, 1)});
    }
}

VarPtr ConvolutionOp::grad(Var* out, Var* from_out, Var* v, int v_index) {
    VarPtr dout = cotangent(from_out, out);
    if (v_index == 2) {
        static auto channels = get_op_info("channels").get_constructor<VarPtr, Var*, int, int, int>();
        return channels(dout, dout->shape[0], dout->shape[2], dout->shape[3]);
    }
    if (part == convolved)
        return v_index == 0 ? make_part({in[1], dout}, by_x, sizes) : make_part({in[0], dout}, by_k, sizes);
    if (part == by_x)
        return v_index == 0 ? make_part({dout, in[1]}, by_k, sizes) : make_part({dout, in[0]}, convolved, sizes);
    return v_index == 0 ? make_part({dout, in[1]}, by_x, sizes) : make_part({in[0], dout}, convolved, sizes);
}

namespace {

using dnnl::memory;

// What oneDNN needs for a part and its sizes: the descriptions of x, k and y as Jittor has and as oneDNN wants them, and
// the programs that turn one into the other.
struct Plan {
    memory::desc given[3], wanted[3];
    dnnl::primitive turn[3], compute;
};

Plan make_plan(const vector<NanoVector>& shapes, int part, bool bias, const vector<int>& sizes) {
    using namespace dnnl;
    Plan plan;
    memory::desc any[3];
    for (int role : {x, k, y}) {
        const memory::dims dims{shapes[role][0], shapes[role][1], shapes[role][2], shapes[role][3]};
        plan.given[role] = memory::desc(dims, memory::data_type::f32, memory::format_tag::abcd);
        any[role] = memory::desc(dims, memory::data_type::f32, memory::format_tag::any);
    }
    const memory::dims strides{sizes[4], sizes[5]}, padding{sizes[6], sizes[7]};
    const memory::dims dilation{sizes[8] - 1, sizes[9] - 1};
    const bool direct = part == convolved && shapes[k][1] < few_channels;
    const auto algorithm = direct ? algorithm::convolution_direct : algorithm::convolution_auto;
    memory::desc along_channels; // of no dimensions, which is none
    if (bias) along_channels = {{shapes[k][0]}, memory::data_type::f32, memory::format_tag::a};
    const convolution_forward::desc forward(
        prop_kind::forward_training, algorithm, any[x], any[k], along_channels, any[y], strides, dilation, padding, padding);
    const convolution_forward::primitive_desc ahead(forward, engine());
    auto settle = [&](const primitive& compute, memory::desc of_x, memory::desc of_k, memory::desc of_y) {
        plan.compute = compute;
        plan.wanted[x] = of_x, plan.wanted[k] = of_k, plan.wanted[y] = of_y;
    };
    if (part == convolved) {
        settle(convolution_forward(ahead), ahead.src_desc(), ahead.weights_desc(), ahead.dst_desc());
    } else if (part == by_x) {
        const convolution_backward_data::primitive_desc back(
            {algorithm, any[x], any[k], any[y], strides, dilation, padding, padding}, engine(), ahead);
        settle(convolution_backward_data(back), back.diff_src_desc(), back.weights_desc(), back.diff_dst_desc());
    } else {
        const convolution_backward_weights::primitive_desc back(
            {algorithm, any[x], any[k], any[y], strides, dilation, padding, padding}, engine(), ahead);
        settle(convolution_backward_weights(back), back.src_desc(), back.diff_weights_desc(), back.diff_dst_desc());
    }
    const int result = part == convolved ? y : part == by_x ? x : k;
    for (int role : {x, k, y}) {
        const memory::desc& from = role == result ? plan.wanted[role] : plan.given[role];
        const memory::desc& to = role == result ? plan.given[role] : plan.wanted[role];
        if (from != to) plan.turn[role] = reorder(reorder::primitive_desc(engine(), from, engine(), to));
    }
    return plan;
}

} // namespace

// The result where there is nothing to add up.
static void fill_with_bias(const float* bias, Var* out) {
    float* to = out->ptr<float>();
    const int64 channels = out->shape[1], places = out->shape[2] * out->shape[3];
    for (int64 i = 0; i < out->shape[0] * channels; i++)
        std::fill(to + i * places, to + (i + 1) * places, bias ? bias[i % channels] : 0.f);
}

void ConvolutionOp::run() {
    static std::map<vector<int64>, Plan> plans;
    static dnnl::stream stream(engine());
    Var* vars[3];
    vars[x] = part == by_x ? out : in[0];
    vars[k] = part == convolved ? in[1] : part == by_x ? in[0] : out;
    vars[y] = part == convolved ? out : in[1];
    const bool bias = in.size() == 3;
    if (!vars[x]->num || !vars[k]->num || !vars[y]->num) { // oneDNN knows no sums over nothing
        fill_with_bias(bias ? in[2]->ptr<float>() : nullptr, out);
        return;
    }
    vector<int64> key{part, bias};
    vector<NanoVector> shapes;
    for (Var* v : vars) {
        shapes.push_back(v->shape);
        for (int i = 0; i < 4; i++) key.push_back(v->shape[i]);
    }
    key.insert(key.end(), sizes.begin(), sizes.end());
    auto found = plans.find(key);
    if (found == plans.end() && plans.size() == most_plans) plans.clear();
    if (found == plans.end()) found = plans.emplace(key, make_plan(shapes, part, bias, sizes)).first;
    Plan& plan = found->second;

    const int result = part == convolved ? y : part == by_x ? x : k;
    std::vector<Allocation> scratch;
    scratch.reserve(3);
    memory given[3], used[3];
    for (int role : {x, k, y}) {
        used[role] = given[role] = memory(plan.given[role], engine(), vars[role]->mem_ptr);
        const bool in_place = role != result || is_aligned(vars[role]->mem_ptr);
        if (!plan.turn[role] && in_place) continue;
        scratch.push_back(exe.alloc_temp(plan.wanted[role].get_size() + cache_line));
        used[role] = memory(plan.wanted[role], engine(), aligned(scratch.back().ptr));
        if (role != result) plan.turn[role].execute(stream, {{DNNL_ARG_FROM, given[role]}, {DNNL_ARG_TO, used[role]}});
    }
    std::unordered_map<int, memory> arguments{
        {part == by_x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, used[x]},
        {part == by_k ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, used[k]},
        {part == convolved ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, used[y]},
    };
    if (bias) {
        const memory::desc along_channels({shapes[k][0]}, memory::data_type::f32, memory::format_tag::a);
        arguments[DNNL_ARG_BIAS] = memory(along_channels, engine(), in[2]->mem_ptr);
    }
    plan.compute.execute(stream, arguments);
    if (plan.turn[result])
        plan.turn[result].execute(stream, {{DNNL_ARG_FROM, used[result]}, {DNNL_ARG_TO, given[result]}});
    stream.wait();
    if (!plan.turn[result] && used[result].get_data_handle() != vars[result]->mem_ptr)
        memcpy(vars[result]->mem_ptr, used[result].get_data_handle(), plan.wanted[result].get_size());
}

} // jittor

#include "convolution.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>

#include "onednn.h"
#include "scratch.h"

namespace jboat {

using dnnl::memory;

namespace {

enum Role { x, k, y };

// Winograd's algorithm, which oneDNN prefers, pads channels to vectors: forwards, with 3 it takes five times as long.
const int64 few_channels = 16;

typedef std::array<int64, 4> Shape;

// What oneDNN needs for a part and its sizes: the descriptions of x, k and y as Jittor has and as oneDNN wants them, and
// the programs that turn one into the other.
struct Plan {
    memory::desc given[3], wanted[3];
    dnnl::primitive turn[3], compute;
};

Role result_of(ConvolutionPart part) { return part == ConvolutionPart::convolved ? y : part == ConvolutionPart::by_x ? x : k; }

Plan make_plan(const Shape* shapes, ConvolutionPart part, bool bias, const Window& window) {
    using namespace dnnl;
    Plan plan;
    memory::desc any[3];
    for (int role : {x, k, y}) {
        const memory::dims dims(shapes[role].begin(), shapes[role].end());
        plan.given[role] = memory::desc(dims, memory::data_type::f32, memory::format_tag::abcd);
        any[role] = memory::desc(dims, memory::data_type::f32, memory::format_tag::any);
    }
    const memory::dims strides{window.stride[0], window.stride[1]}, padding{window.padding[0], window.padding[1]};
    const memory::dims dilation{window.dilation[0] - 1, window.dilation[1] - 1};
    const bool direct = part == ConvolutionPart::convolved && shapes[k][1] < few_channels;
    const auto algorithm = direct ? algorithm::convolution_direct : algorithm::convolution_auto;
    memory::desc along_channels; // of no dimensions, which is none
    if (bias) along_channels = {{shapes[k][0]}, memory::data_type::f32, memory::format_tag::a};
    const convolution_forward::desc forward(
        prop_kind::forward_training, algorithm, any[x], any[k], along_channels, any[y], strides, dilation, padding, padding
    );
    const convolution_forward::primitive_desc ahead(forward, engine());
    auto settle = [&](const primitive& compute, memory::desc of_x, memory::desc of_k, memory::desc of_y) {
        plan.compute = compute;
        plan.wanted[x] = of_x, plan.wanted[k] = of_k, plan.wanted[y] = of_y;
    };
    if (part == ConvolutionPart::convolved) {
        settle(convolution_forward(ahead), ahead.src_desc(), ahead.weights_desc(), ahead.dst_desc());
    } else if (part == ConvolutionPart::by_x) {
        const convolution_backward_data::primitive_desc back(
            {algorithm, any[x], any[k], any[y], strides, dilation, padding, padding}, engine(), ahead
        );
        settle(convolution_backward_data(back), back.diff_src_desc(), back.weights_desc(), back.diff_dst_desc());
    } else {
        const convolution_backward_weights::primitive_desc back(
            {algorithm, any[x], any[k], any[y], strides, dilation, padding, padding}, engine(), ahead
        );
        settle(convolution_backward_weights(back), back.src_desc(), back.diff_weights_desc(), back.diff_dst_desc());
    }
    const Role result = result_of(part);
    for (int role : {x, k, y}) {
        const memory::desc& from = role == result ? plan.wanted[role] : plan.given[role];
        const memory::desc& to = role == result ? plan.given[role] : plan.wanted[role];
        if (from != to) plan.turn[role] = reorder(reorder::primitive_desc(engine(), from, engine(), to));
    }
    return plan;
}

Plan& plan_for(const Shape* shapes, ConvolutionPart part, bool bias, const Window& window) {
    static std::map<std::array<int64, 15>, Plan> plans;
    std::array<int64, 15> key{(int64)part, bias, shapes[x][0], shapes[x][1], shapes[k][0]};
    auto next = key.begin() + 5;
    for (const int64* sizes : {window.image, window.kernel, window.stride, window.padding, window.dilation})
        next = std::copy(sizes, sizes + 2, next);
    auto found = plans.find(key);
    if (found == plans.end() && plans.size() == most_plans) plans.clear();
    if (found == plans.end()) found = plans.emplace(key, make_plan(shapes, part, bias, window)).first;
    return found->second;
}

int64 count_of(const Shape& shape) { return shape[0] * shape[1] * shape[2] * shape[3]; }

// The result where there is nothing to add up.
void fill_with_bias(const float* bias, const Shape& shape, float* result) {
    const int64 channels = shape[1], places = shape[2] * shape[3];
    for (int64 i = 0; i < shape[0] * channels; i++)
        std::fill(result + i * places, result + (i + 1) * places, bias ? bias[i % channels] : 0.f);
}

} // namespace

void convolve(
    ConvolutionPart part, const Window& window, int64 n, int64 i, int64 o, const float* first, const float* second,
    const float* bias, float* result
) {
    const Shape shapes[3] = {
        {n, i, window.image[0], window.image[1]},
        {o, i, window.kernel[0], window.kernel[1]},
        {n, o, window.places(0), window.places(1)},
    };
    const Role wanted = result_of(part);
    if (!count_of(shapes[x]) || !count_of(shapes[k]) || !count_of(shapes[y])) // oneDNN knows no sums over nothing
        return fill_with_bias(bias, shapes[wanted], result);
    static dnnl::stream stream(engine());
    Plan& plan = plan_for(shapes, part, bias, window);

    void* at[3];
    at[wanted] = result;
    at[wanted == x ? k : x] = (void*)first; // oneDNN reads alone what is no result
    at[wanted == y ? k : y] = (void*)second;
    std::unique_ptr<Scratch> scratch[3];
    memory given[3], used[3];
    for (int role : {x, k, y}) {
        used[role] = given[role] = memory(plan.given[role], engine(), at[role]);
        const bool in_place = role != wanted || is_aligned(at[role]);
        if (!plan.turn[role] && in_place) continue;
        scratch[role].reset(new Scratch(plan.wanted[role].get_size() + cache_line));
        used[role] = memory(plan.wanted[role], engine(), aligned(scratch[role]->memory));
        if (role != wanted) plan.turn[role].execute(stream, {{DNNL_ARG_FROM, given[role]}, {DNNL_ARG_TO, used[role]}});
    }
    std::unordered_map<int, memory> arguments{
        {wanted == x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, used[x]},
        {wanted == k ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, used[k]},
        {wanted == y ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, used[y]},
    };
    if (bias) {
        const memory::desc along_channels({o}, memory::data_type::f32, memory::format_tag::a);
        arguments[DNNL_ARG_BIAS] = memory(along_channels, engine(), (void*)bias);
    }
    plan.compute.execute(stream, arguments);
    if (plan.turn[wanted]) plan.turn[wanted].execute(stream, {{DNNL_ARG_FROM, used[wanted]}, {DNNL_ARG_TO, given[wanted]}});
    stream.wait();
    if (!plan.turn[wanted] && used[wanted].get_data_handle() != at[wanted])
        memcpy(at[wanted], used[wanted].get_data_handle(), plan.wanted[wanted].get_size());
}

} // namespace jboat

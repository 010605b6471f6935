#include "checks.h"
#include "convolution_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

using jboat::Window;
using Part = jboat::ConvolutionPart;

static const char* const names[] = {"convolved", "by_x", "by_k"}; // of the parts, in their order

static VarPtr make_part(vector<Var*>&& inputs, Part part, const Window& window) {
    static auto make = get_op_info("convolution").get_constructor<VarPtr, vector<Var*>&&, string&&, vector<int>&&>();
    vector<int> sizes;
    for (const int64* pair : {window.image, window.kernel, window.stride, window.padding, window.dilation})
        for (int axis = 0; axis < 2; axis++) sizes.push_back(pair[axis]);
    return make(move(inputs), names[(int)part], move(sizes));
}

static Window window_of(const vector<int>& sizes) {
    REQUIRE(sizes.size() == 10, "convolution: there must be 10 sizes, but are ", sizes.size());
    Window window;
    auto read = [&, next = sizes.begin()](int64* pair, const char* what, int least) mutable {
        for (int axis = 0; axis < 2; axis++) {
            pair[axis] = *next++;
            REQUIRE(pair[axis] >= least, "convolution: a ", what, " must be at least ", least, ", not ", pair[axis]);
        }
    };
    read(window.image, "size of images", 0);
    read(window.kernel, "size of a kernel", 0);
    read(window.stride, "stride", 1);
    read(window.padding, "padding", 0);
    read(window.dilation, "dilation", 1);
    for (int axis = 0; axis < 2; axis++)
        REQUIRE(
            window.reach(axis) <= window.padded(axis), "convolution: a kernel that reaches over ", window.reach(axis),
            " places does not fit into ", window.padded(axis)
        );
    return window;
}

// Of the shapes that convolution_op.h gives.
static void check_inputs(const vector<Var*>& in, Part part, const Window& window) {
    const char* const name = "convolution";
    const bool may_have_bias = part == Part::convolved;
    REQUIRE(
        in.size() == 2 || (may_have_bias && in.size() == 3), name, ": part \"", names[(int)part], "\" has two inputs",
        may_have_bias ? " or three" : "", ", not ", in.size()
    );
    Var *const first = in[0], *const second = in[1];
    const bool many = first->shape.size() == 5;
    const int64 count = many ? first->shape[0] : 1;
    auto check = [&](Var* v, const char* what, int64 p, int64 q, int64 r, int64 s) {
        if (many) check_array(v, name, what, {count, p, q, r, s});
        else check_array(v, name, what, {p, q, r, s});
    };
    check(first, "the first input", any, any, any, any);
    check(second, "the second input", any, any, any, any);
    const int64 h = window.image[0], w = window.image[1], a = window.kernel[0], b = window.kernel[1];
    const int64 rows = window.places(0), columns = window.places(1);
    const int64 first_0 = first->shape[many], first_1 = first->shape[many + 1];
    const int64 second_0 = second->shape[many], second_1 = second->shape[many + 1];
    if (part == Part::convolved) {
        check(first, "the images", any, any, h, w);
        check(second, "the kernel", any, first_1, a, b);
        if (in.size() == 3 && many) check_array(in[2], name, "the bias", {count, second_0});
        else if (in.size() == 3) check_array(in[2], name, "the bias", {second_0});
        check_sizes(name, {count, first_0, second_0, rows, columns});
    } else if (part == Part::by_x) {
        check(first, "the kernel", any, any, a, b);
        check(second, "the derivative by the result", any, first_0, rows, columns);
        check_sizes(name, {count, second_0, first_1, h, w});
    } else {
        check(first, "the images", any, any, h, w);
        check(second, "the derivative by the result", first_0, any, rows, columns);
        check_sizes(name, {count, second_1, first_1, a, b});
    }
}

ConvolutionOp::ConvolutionOp(vector<Var*>&& inputs, string&& part, vector<int>&& sizes)
    : in(inputs), part(part_named<Part>(part, "convolution", names)), window(window_of(sizes)) {
    check_inputs(in, this->part, window);
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    for (int i = 0; i < 2; i++)
        if (!in[1 - i]->is_stop_grad()) in[i]->flags.set(NodeFlags::_needed_by_backward);
    out = create_output(nullptr, ns_float32);
}

void ConvolutionOp::infer_shape() {
    const NanoVector first = in[0]->shape, second = in[1]->shape;
    const bool many = first.size() == 5;
    NanoVector shape;
    if (many) shape.push_back(first[0]);
    const int64 first_0 = first[many], first_1 = first[many + 1], second_0 = second[many], second_1 = second[many + 1];
    auto set = [&](int64 p, int64 q, int64 r, int64 s) {
        for (int64 size : {p, q, r, s}) shape.push_back(size);
    };
    if (part == Part::by_k) set(second_1, first_1, window.kernel[0], window.kernel[1]);
    else if (part == Part::by_x) set(second_0, first_1, window.image[0], window.image[1]);
    else set(first_0, second_0, window.places(0), window.places(1));
    out->set_shape(shape);
}

VarPtr ConvolutionOp::grad(Var* out, Var* from_out, Var* v, int v_index) {
    VarPtr dout = cotangent(from_out, out);
    if (v_index == 2) {
        static auto channels = get_op_info("channels").get_constructor<VarPtr, Var*, int, int, int>();
        const int axes = dout->shape.size();
        return channels(dout, dout->shape[axes - 4], dout->shape[axes - 2], dout->shape[axes - 1]);
    }
    if (part == Part::convolved)
        return v_index == 0 ? make_part({in[1], dout}, Part::by_x, window) : make_part({in[0], dout}, Part::by_k, window);
    if (part == Part::by_x)
        return v_index == 0 ? make_part({dout, in[1]}, Part::by_k, window) : make_part({dout, in[0]}, Part::convolved, window);
    return v_index == 0 ? make_part({dout, in[1]}, Part::by_x, window) : make_part({in[0], dout}, Part::convolved, window);
}

void ConvolutionOp::run() {
    const NanoVector first = in[0]->shape, second = in[1]->shape;
    const bool many = first.size() == 5;
    const int64 count = many ? first[0] : 1;
    const int64 images = part == Part::by_x ? second[many] : first[many];
    const int64 outputs = part == Part::by_k ? second[many + 1] : part == Part::by_x ? first[many] : second[many];
    const float *left = numbers_of(in[0]), *right = numbers_of(in[1]);
    const float* bias = in.size() == 3 ? numbers_of(in[2]) : nullptr;
    float* result = numbers_of(out);
    for (int64 i = 0; i < count; i++) {
        jboat::convolve(part, window, images, first[many + 1], outputs, left, right, bias, result);
        left += in[0]->num / count, right += in[1]->num / count, result += out->num / count;
        if (bias) bias += outputs;
    }
}

} // namespace jittor

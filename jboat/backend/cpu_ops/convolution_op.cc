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
    check_array(first, name, "the first input", {any, any, any, any});
    check_array(second, name, "the second input", {any, any, any, any});
    const int64 h = window.image[0], w = window.image[1], a = window.kernel[0], b = window.kernel[1];
    const int64 rows = window.places(0), columns = window.places(1);
    if (part == Part::convolved) {
        check_shape(first, name, "the images", {any, any, h, w});
        check_shape(second, name, "the kernel", {any, first->shape[1], a, b});
        if (in.size() == 3) check_array(in[2], name, "the bias", {second->shape[0]});
        check_sizes(name, {first->shape[0], second->shape[0], rows, columns});
    } else if (part == Part::by_x) {
        check_shape(first, name, "the kernel", {any, any, a, b});
        check_shape(second, name, "the derivative by the result", {any, first->shape[0], rows, columns});
        check_sizes(name, {second->shape[0], first->shape[1], h, w});
    } else {
        check_shape(first, name, "the images", {any, any, h, w});
        check_shape(second, name, "the derivative by the result", {first->shape[0], any, rows, columns});
        check_sizes(name, {second->shape[1], first->shape[1], a, b});
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
    if (part == Part::by_k) out->set_shape({second[1], first[1], window.kernel[0], window.kernel[1]});
    else if (part == Part::by_x) out->set_shape({second[0], first[1], window.image[0], window.image[1]});
    else out->set_shape({first[0], second[0], window.places(0), window.places(1)});
}

VarPtr ConvolutionOp::grad(Var* out, Var* from_out, Var* v, int v_index) {
    VarPtr dout = cotangent(from_out, out);
    if (v_index == 2) {
        static auto channels = get_op_info("channels").get_constructor<VarPtr, Var*, int, int, int>();
        return channels(dout, dout->shape[0], dout->shape[2], dout->shape[3]);
    }
    if (part == Part::convolved)
        return v_index == 0 ? make_part({in[1], dout}, Part::by_x, window) : make_part({in[0], dout}, Part::by_k, window);
    if (part == Part::by_x)
        return v_index == 0 ? make_part({dout, in[1]}, Part::by_k, window) : make_part({dout, in[0]}, Part::convolved, window);
    return v_index == 0 ? make_part({dout, in[1]}, Part::by_x, window) : make_part({in[0], dout}, Part::convolved, window);
}

void ConvolutionOp::run() {
    const NanoVector first = in[0]->shape, second = in[1]->shape;
    const int64 images = part == Part::by_x ? second[0] : first[0];
    const int64 outputs = part == Part::by_k ? second[1] : part == Part::by_x ? first[0] : second[0];
    jboat::convolve(
        part, window, images, first[1], outputs, numbers_of(in[0]), numbers_of(in[1]),
        in.size() == 3 ? numbers_of(in[2]) : nullptr, numbers_of(out)
    );
}

} // namespace jittor

#pragma once
#include "int64.h"

namespace jboat {

// What a convolution of x[n, i, h, w] with k[o, i, a, b] is asked for: itself, y[n, o, ...], or its derivatives along y.
enum class ConvolutionPart { convolved, by_x, by_k };

// Of two axes each.
struct Window {
    int64 image[2], kernel[2], stride[2], padding[2], dilation[2];

    // how many places of the image, with its padding, there are along an axis, and how many the kernel reaches over
    int64 padded(int axis) const { return image[axis] + 2 * padding[axis]; }
    int64 reach(int axis) const { return (kernel[axis] - 1) * dilation[axis] + 1; }

    // how many places the result has
    int64 places(int axis) const { return (padded(axis) - reach(axis)) / stride[axis] + 1; }
};

// first and second are x and k, k and y, or x and y; the result is the third. A bias[o], or null, is added to y.
void convolve(
    ConvolutionPart part, const Window& window, int64 n, int64 i, int64 o, const float* first, const float* second,
    const float* bias, float* result
);

} // namespace jboat

"""What runs in the place of Jittor's functions while a trainer runs, one function a file.

Inside :func:`jboat.fast_gradients.fast_gradients` conditions are stored as bytes, exponentials have a kernel of their
own, the largest entry of a softmax is a constant, and products of matrices, linear layers, convolutions without groups,
what is broadcast to the channels of images, ReLU, softmax and cross entropy are operations in C++. On
a GPU those that Jittor derives by hand are made of operations that can be derived again. On every device maximum,
minimum and adaptive maximum pooling have the second derivative that Jittor's lack. Values and gradients are the same up
to rounding, but that ReLU keeps NaN.

Importing this package does not start Jittor; :mod:`jboat.backend.replacements.by_device` puts all dispatchers in place.
"""

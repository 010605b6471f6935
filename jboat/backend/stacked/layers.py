"""Layers and losses of several tasks at once, each task with parameters of its own or all with the same."""

from __future__ import annotations

from typing import Any

from jboat.backend.replacements.dispatch import Function
from jboat.backend.stacked.array import (
    NotStackedError,
    Stacked,
    cpu_operations,
    of_all_tasks,
    product,
    stacked,
    together,
)
import jittor as jt


def linear(other: Function, x: Any, weight: Any, bias: Any = None) -> Stacked:
    """``x weight' + bias``, any of them a task's own.

    Args:
        other: what computes it for one task.
        x: shape ``[..., m]``, more than one axis.
        weight: shape ``[k, m]``.
        bias: shape ``[k]``, or None.
    """
    own_weight, own_bias = stacked(weight), stacked(bias)
    if own_weight is None:
        own = stacked(x)
        if own is None or own_bias is not None:
            return _added(linear(other, x, weight), bias) if own is not None else _added(other(x, weight), bias)
        return own.unfolded(other(own.folded(), weight, *([] if bias is None else [bias])))
    values = of_all_tasks(x, own_weight.tasks)
    rows = values.reshape((own_weight.tasks, -1, values.shape[-1]))
    found = product(rows, own_weight.value, trans_b=True).reshape((*values.shape[:-1], own_weight.shape[0]))
    return _added(Stacked(found), bias)


def _added(value: Any, bias: Any) -> Stacked:
    return together(jt.add, value, bias) if bias is not None else value


def conv2d(
    other: Function,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Stacked:
    """A convolution of images, each task with a kernel of its own or all with the same.

    Args:
        other: what computes it for one task.
        x: shape ``[n, channels, h, w]``.
        weight: shape ``[outputs, channels / groups, a, b]``.
        bias: shape ``[outputs]``, or None.
        stride: one number, or that of each axis.
        padding: the same.
        dilation: the same.
        groups: see ``jt.nn.conv2d``.
    """
    kernels, own_bias = stacked(weight), stacked(bias)
    if kernels is None:
        own = stacked(x)
        if own is None:
            raise NotStackedError("a convolution whose bias alone differs from task to task")
        found = own.unfolded(other(own.folded(), weight, None, stride, padding, dilation, groups))
    else:
        tasks, images = kernels.tasks, of_all_tasks(x, kernels.tasks)
        sizes = [_pair(size) for size in (stride, padding, dilation)]
        operations = cpu_operations(images, kernels.value)
        if operations is not None and groups == 1:
            added = [] if own_bias is None else [own_bias.value]
            flat = [*images.shape[3:], *kernels.shape[2:], *(side for pair in sizes for side in pair)]
            found = Stacked(operations.convolution([images, kernels.value, *added], "convolved", flat))
            if added:
                return found
        else:
            n, channels, *size = images.shape[1:]
            grouped = images.transpose((1, 0, 2, 3, 4)).reshape((n, tasks * channels, *size))
            of_groups = kernels.value.reshape((tasks * kernels.shape[0], *kernels.shape[1:]))
            y = other(grouped, of_groups, None, *sizes, tasks * groups)
            found = Stacked(y.reshape((n, tasks, -1, *y.shape[2:])).transpose((1, 0, 2, 3, 4)))
    if bias is None:
        return found
    column = bias.reshape(-1, 1, 1) if own_bias is None else own_bias.reshape(-1, 1, 1)
    return together(jt.add, found, column)


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def cross_entropy_loss(
    other: Function, output: Any, target: Any, weight: Any = None, ignore_index: Any = None, reduction: str = "mean"
) -> Stacked:
    """Cross entropy of the rows of scores ``[n, classes]``, its mean over each task's rows whose label counts."""
    scores = stacked(output)
    if scores is None or scores.ndim != 2 or weight is not None or ignore_index is not None:
        raise NotStackedError("cross_entropy_loss of other than rows of scores, with weight or with ignore_index")
    own = stacked(target)  # itself, since it remembers which of its labels count
    labels = Stacked(of_all_tasks(target, scores.tasks)) if own is None else own
    if labels.shape not in ((scores.shape[0],), (scores.shape[0], 1)):
        raise NotStackedError(f"cross_entropy_loss of scores {list(scores.shape)} with labels {list(labels.shape)}")
    losses = scores.unfolded(other(scores.folded(), labels.value.reshape(-1), reduction="none"))
    if reduction == "none":
        return losses.reshape(*labels.shape)
    if reduction == "sum":
        return losses.sum()
    counts = labels.in_range(scores.shape[1])
    return losses.mean() if counts is None else together(jt.divide, losses.sum(), Stacked(counts))


def mse_loss(other: Function, output: Any, target: Any, reduction: str = "mean") -> Stacked:
    """The mean of squared differences over each task's entries, their sum, or all of them."""
    squares = together(lambda a, b: (a - b).sqr(), output, target)
    if reduction not in ("mean", "sum"):
        raise NotStackedError(f"mse_loss with reduction={reduction!r}")
    return getattr(squares, reduction)()

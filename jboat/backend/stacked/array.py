"""Arrays of equal shape, one a task, in one Var with a first axis more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
import functools
import math
from numbers import Number
import operator
from types import MappingProxyType
from typing import Any, ClassVar

from jboat.backend import cpu_ops
import jittor as jt
import numpy as np


class NotStackedError(TypeError):
    """What cannot be computed for several tasks at once; the message names it."""


class UnequalTasksError(NotStackedError):
    """Tasks whose arrays have other shapes than each other, or that differ in what is no array."""


class Stacked:
    """An array for each of several tasks; what is computed with it is computed for each task by itself.

    Shapes, axes and indices are those of one task. Whatever :class:`jt.Var` has that is not here cannot be computed for
    several tasks at once.

    Args:
        value: shape ``[tasks, ...]``. A single number a task has the shape ``[tasks, 1]``, as Jittor's have ``[1]``.
    """

    __slots__ = ("_counted", "value")
    __hash__ = None  # type: ignore[assignment]  # it is compared entry by entry
    __iter__ = None
    __array_ufunc__ = None  # numpy leaves the operation to this class
    sum: ClassVar[Callable[..., Stacked]]
    mean: ClassVar[Callable[..., Stacked]]

    def __init__(self, value: jt.Var) -> None:
        self.value = value if value.ndim > 1 else value.reshape((-1, 1))
        self._counted: dict[int, jt.Var | None] = {}

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return int(self.value.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one task's array."""
        return tuple(self.value.shape)[1:]

    @property
    def ndim(self) -> int:
        """The number of axes of one task's array."""
        return int(self.value.ndim) - 1

    @property
    def dtype(self) -> Any:
        """The type of the numbers."""
        return self.value.dtype

    def numel(self) -> int:
        """How many numbers one task's array has."""
        return math.prod(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of an axis."""
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        """The length of the first axis."""
        return self.shape[0]

    def __bool__(self) -> bool:
        """There is no one answer."""
        raise NotStackedError("the truth of a value that differs from task to task")

    def __float__(self) -> float:
        """There is no one number."""
        raise NotStackedError("the number of a value that differs from task to task")

    __int__ = __float__

    def __repr__(self) -> str:
        """Without the numbers."""
        return f"Stacked({self.tasks} tasks, {self.dtype}, shape {list(self.shape)})"

    def folded(self) -> jt.Var:
        """The first axis of all tasks one behind the other, shape ``[tasks * n, ...]``."""
        return self.value.reshape((self.tasks * self.shape[0], *self.shape[1:]))

    def unfolded(self, folded: jt.Var) -> Stacked:
        """What was computed of :meth:`folded` by its rows, as arrays of the tasks."""
        return Stacked(folded.reshape((self.tasks, -1, *folded.shape[1:])))

    def reshape(self, *shape: Any) -> Stacked:
        """See ``jt.Var.reshape``."""
        return Stacked(self.value.reshape((self.tasks, *_flat(shape))))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Stacked:
        """See ``jt.flatten``."""
        start, end = (d % self.ndim for d in (start_dim, end_dim))
        return self.reshape(*self.shape[:start], math.prod(self.shape[start : end + 1]), *self.shape[end + 1 :])

    def transpose(self, *dims: Any) -> Stacked:
        """See ``jt.transpose``: all axes in their new order, the two to exchange, or none to turn the order round."""
        axes = _flat(dims) or list(reversed(range(self.ndim)))
        if len(dims) == 2:
            axes = list(range(self.ndim))
            axes[dims[0]], axes[dims[1]] = axes[dims[1]], axes[dims[0]]
        if sorted(axes) != list(range(self.ndim)):
            raise NotStackedError(f"transpose{dims} of an array of {self.ndim} axes")
        return Stacked(self.value.transpose((0, *(a + 1 for a in axes))))

    permute = transpose

    def unsqueeze(self, dim: int) -> Stacked:
        """See ``jt.Var.unsqueeze``."""
        at = dim if dim >= 0 else dim + self.ndim + 1
        return self.reshape(*self.shape[:at], 1, *self.shape[at:])

    def squeeze(self, dim: int | None = None) -> Stacked:
        """See ``jt.Var.squeeze``."""
        if dim is None:
            return self.reshape([size for size in self.shape if size > 1])
        at = dim % self.ndim
        if self.shape[at] != 1:
            raise ValueError(f"squeeze: axis {dim} of an array of shape {list(self.shape)} has not the length 1")
        return self.reshape([*self.shape[:at], *self.shape[at + 1 :]])

    def expand(self, *shape: Any) -> Stacked:
        """See ``jt.Var.expand``."""
        wanted = _flat(shape)
        own = [1] * (len(wanted) - self.ndim) + list(self.shape)
        return self.broadcast([o if w == -1 else w for o, w in zip(own, wanted, strict=True)])

    def broadcast(self, shape: Any, dims: Sequence[int] = ()) -> Stacked:
        """See ``jt.Var.broadcast``."""
        wanted = tuple(shape.shape if isinstance(shape, (Stacked, jt.Var)) else shape)
        own = self if dims else self.reshape(*[1] * (len(wanted) - self.ndim), *self.shape)
        return Stacked(own.value.broadcast((self.tasks, *wanted), [d % len(wanted) + 1 for d in dims]))

    def __getitem__(self, index: Any) -> Stacked:
        """By numbers, slices, None and an ellipsis."""
        entries = index if isinstance(index, tuple) else (index,)
        if not all(e is None or e is ... or (isinstance(e, (slice, int)) and e is not True) for e in entries):
            raise NotStackedError(f"indexing by {', '.join(type(e).__name__ for e in entries)}")
        if entries and isinstance(entries[0], int) and not -len(self) <= entries[0] < len(self):
            raise IndexError(f"index {entries[0]} is out of range for an axis of {len(self)}")
        of_all = (slice(None), *entries)
        return Stacked(self.value[of_all])

    def matmul(self, other: Any) -> Stacked:
        """The product of two matrices."""
        return _product(self, other)

    def __matmul__(self, other: Any) -> Stacked:
        """See :meth:`matmul`."""
        return _product(self, other)

    def __rmatmul__(self, other: Any) -> Stacked:
        """See :meth:`matmul`."""
        return _product(other, self)

    def __neg__(self) -> Stacked:
        """The negative."""
        return Stacked(-self.value)

    def clamp(self, min_v: Any = None, max_v: Any = None) -> Stacked:
        """See ``jt.Var.clamp``."""
        return Stacked(self.value.clamp(min_v, max_v))

    def cast(self, dtype: Any) -> Stacked:
        """The same numbers in another type."""
        return Stacked(self.value.cast(dtype))

    def softmax(self, dim: int | None = None, log: bool = False) -> Stacked:
        """Softmax along an axis, as :meth:`log_softmax`."""
        if dim is None:
            raise NotStackedError("softmax over all axes")
        return Stacked(jt.nn.softmax(self.value, dim % self.ndim + 1, log))

    def log_softmax(self, dim: int | None = None) -> Stacked:
        """The logarithm of softmax along an axis."""
        return self.softmax(dim, log=True)

    def in_range(self, classes: int) -> jt.Var | None:
        """How many of a task's labels are from 0 to ``classes - 1``, shape ``[tasks, 1]``; None where all are."""
        if classes not in self._counted:
            labels = self.value.numpy().reshape(self.tasks, -1)
            counts = ((labels >= 0) & (labels < classes)).sum(1)
            every = bool((counts == labels.shape[1]).all())
            self._counted[classes] = None if every else jt.array(counts.astype(np.float32)[:, None])
        return self._counted[classes]


def _flat(numbers: Sequence[Any]) -> list[Any]:
    one = numbers[0] if len(numbers) == 1 else numbers
    return [one] if isinstance(one, int) else list(one)


_NOTHING: Mapping[int, Stacked] = MappingProxyType({})
held: ContextVar[Mapping[int, Stacked]] = ContextVar("arrays of Vars that differ from task to task", default=_NOTHING)
"""While an objective runs, the Vars themselves hold NaN, which shows where something knows nothing of tasks."""


def stacked(value: Any) -> Stacked | None:
    """What a value is for each task; None where it is the same for all."""
    if isinstance(value, Stacked):
        return value
    return held.get().get(id(value)) if isinstance(value, jt.Var) else None


def _own(value: Any) -> Stacked:
    found = stacked(value)
    assert found is not None
    return found


def is_shared(value: Any) -> bool:
    """Whether something is a number or an array that all tasks have in common."""
    return isinstance(value, (jt.Var, Number, np.number))


def together(function: Callable[..., jt.Var], *operands: Any) -> Stacked:
    """What an entrywise function makes of arrays and numbers, broadcast against each other.

    Raises:
        NotStackedError: for anything else.
    """
    known = [stacked(o) for o in operands]
    for one, operand in zip(known, operands, strict=True):
        if one is None and not is_shared(operand):
            raise NotStackedError(f"an operation with a {type(operand).__name__}")
    given = [o if one is None else one for one, o in zip(known, operands, strict=True)]
    axes = max(o.ndim for o in given if isinstance(o, (Stacked, jt.Var)))

    def aligned(one: Any) -> Any:
        if not isinstance(one, Stacked):
            return one
        missing = axes - one.ndim
        return one.value.reshape((one.tasks, *[1] * missing, *one.shape)) if missing else one.value

    return Stacked(function(*(aligned(o) for o in given)))


def product(a: jt.Var, b: jt.Var, *, trans_b: bool = False) -> jt.Var:
    """The product of each pair of matrices of ``a[t, n, m]`` and ``b[t, m, k]``, or ``b[t, k, m]`` with ``trans_b``."""
    found = _batched(a, b, trans_b)
    if found is not None:
        return found
    return jt.nn.bmm_transpose(a, b) if trans_b else jt.nn.bmm(a, b)


def _batched(a: jt.Var, b: jt.Var, trans_b: bool) -> jt.Var | None:
    operations = cpu_operations(a, b)
    return None if operations is None else operations.matrix_product(a, b, False, trans_b)


def cpu_operations(*variables: jt.Var) -> cpu_ops.Operations | None:
    """:mod:`jboat.backend.cpu_ops`, where they can compute with these variables."""
    if jt.flags.use_cuda or jt.flags.amp_reg or any(v.dtype != "float32" for v in variables):
        return None
    return cpu_ops.load()


def of_all_tasks(value: Any, tasks: int) -> jt.Var:
    """The arrays of all tasks, shape ``[tasks, ...]``, of a value that may be the same for all."""
    own = stacked(value)
    return value.broadcast((tasks, *value.shape), [0]) if own is None else own.value


def _product(a: Any, b: Any) -> Stacked:
    sides = [stacked(a), stacked(b)]
    tasks = next(s.tasks for s in sides if s is not None)
    for one, side in zip(sides, (a, b), strict=True):
        if one is None and not isinstance(side, jt.Var):
            raise NotStackedError(f"a product with a {type(side).__name__}")
        if (side if one is None else one).ndim != 2:
            raise NotStackedError("a product of arrays that are no matrices")
    left, right = sides
    if left is not None and right is None:
        return left.unfolded(jt.matmul(left.folded(), b))
    return Stacked(product(of_all_tasks(a, tasks), of_all_tasks(b, tasks)))


def _reduction(name: str) -> Callable[..., Stacked]:
    def reduced(self: Any, dims: Any = None, keepdims: bool = False, **named: Any) -> Stacked:
        for other in ("dim", "keepdim"):
            if other in named:
                dims, keepdims = (named.pop(other), keepdims) if other == "dim" else (dims, named.pop(other))
        if named:
            raise NotStackedError(f"{name} with {', '.join(named)}")
        one = _own(self)
        if dims is None or (not isinstance(dims, int) and not len(dims)):
            found = getattr(one.value.reshape((one.tasks, -1)), name)(1)
            return Stacked(found.reshape((one.tasks, *[1] * one.ndim)) if keepdims else found)
        axes = [d % one.ndim + 1 for d in ([dims] if isinstance(dims, int) else dims)]
        return Stacked(getattr(one.value, name)(axes, keepdims))

    reduced.__doc__ = f"See ``jt.Var.{name}``."
    return reduced


def _entrywise(name: str) -> Callable[..., Stacked]:
    def computed(self: Any) -> Stacked:
        return Stacked(getattr(_own(self).value, name)())

    computed.__doc__ = f"See ``jt.Var.{name}``."
    return computed


def _operator(name: str, function: Callable[..., Any]) -> None:
    def forwards(self: Any, other: Any) -> Stacked:
        return together(function, self, other)

    def backwards(self: Any, other: Any) -> Stacked:
        return together(function, other, self)

    forwards.__doc__ = backwards.__doc__ = f"See ``jt.Var.__{name}__``."
    setattr(Stacked, f"__{name}__", forwards)
    if name not in COMPARISONS:
        setattr(Stacked, f"__r{name}__", backwards)


def _of_two(self: Any, function: Callable[..., Any], other: Any) -> Stacked:
    return together(function, self, other)


REDUCTIONS = ("sum", "mean", "max", "min")
ENTRYWISE = (
    "exp", "log", "sqrt", "sqr", "abs", "tanh", "sigmoid", "sin", "cos", "erf", "floor", "detach",
)  # fmt: skip
TYPES = ("float32", "float64", "int32", "bool", "float", "double", "int", "long")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
OPERATORS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "pow": operator.pow,
    **{name: getattr(operator, name) for name in COMPARISONS},
}
BINARY = ("maximum", "minimum", "multiply", "add", "subtract", "divide", "pow")
for _name in REDUCTIONS:
    setattr(Stacked, _name, _reduction(_name))
for _name in (*ENTRYWISE, *TYPES):
    setattr(Stacked, _name, _entrywise(_name))
for _name, _function in OPERATORS.items():
    _operator(_name, _function)
for _name in BINARY:
    setattr(Stacked, _name, functools.partialmethod(_of_two, getattr(jt, _name)))

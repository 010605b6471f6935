"""What a graph computes against numpy in float64, and which of Jittor's kernels it runs."""

import jittor as jt
import numpy as np


def leaves(arrays):
    return [jt.array(a.astype("float32")) for a in arrays]


def close(got, wanted):
    for g, a in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g.numpy(), a, rtol=2e-4, atol=2e-4 * np.abs(a).max())


def calls_of(call):
    """How often each kernel runs, by name."""
    jt.sync_all(True)
    with jt.profile_scope(warmup=0, rerun=0) as report:
        jt.sync(call())
    return {row[0]: int(row[2]) for row in report[1:]}


def kernels_of(call):
    return list(calls_of(call))

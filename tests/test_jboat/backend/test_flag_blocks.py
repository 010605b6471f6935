"""Jittor's flags in blocks that end in any order."""

import contextlib

from jboat.backend.flag_blocks import flag
import jittor as jt
import pytest


@pytest.mark.parametrize("ends", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_flag_is_as_before_after_the_last_block(ends):
    blocks = [flag("no_grad", 1) for _ in range(3)]
    assert not jt.flags.no_grad
    for block in blocks:
        block.__enter__()
    for i in ends:
        assert jt.flags.no_grad
        blocks[i].__exit__(None, None, None)
    assert not jt.flags.no_grad


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_users_own_blocks_inside_and_outside(error):
    with jt.no_grad():
        with flag("no_grad", 0):
            assert not jt.flags.no_grad
            with jt.no_grad(), contextlib.suppress(error), flag("no_grad", 0):
                assert not jt.flags.no_grad
                raise error
            assert not jt.flags.no_grad
            with contextlib.suppress(error), jt.no_grad():
                with flag("no_grad", 1):
                    pass
                assert jt.flags.no_grad
                raise error
        assert jt.flags.no_grad
    assert not jt.flags.no_grad

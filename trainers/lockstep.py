"""What the ranks of a ``fit`` tell each other besides derivatives, so that all go the same way. Alone it is nothing."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import json
import logging
import signal
from typing import TYPE_CHECKING, Any
import zlib

from jboat.backend import ranks
from jboat.trainers.data.loaders import known_length
from jboat.trainers.persistence import checkpoint, checkpoint_contents
from jboat.trainers.trainer_state import StopReason, TrainerState
import jittor as jt
import numpy as np

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

logger = logging.getLogger("jboat")

STEPS_BETWEEN_LOOKS = 50
"""Outer steps after which the ranks' variables are compared."""

LARGEST_DRIFT = 1e-4
"""How far a rank's variables may be from those of rank 0, relative to their size; equal ones differ by nothing."""

_REASONS = list(StopReason)


class Lockstep:
    """One ``fit`` of several ranks.

    Args:
        trainer: what is trained.
        loaders: the loaders by name.
    """

    def __init__(self, trainer: BilevelTrainer, loaders: dict[str, Any]) -> None:
        self._trainer = trainer
        self._loaders = loaders
        self._looked_at_step = -1

    def begin(self) -> None:
        """Let all ranks start where rank 0 does.

        Raises:
            ValueError: on all ranks, if they were started to do different things.
        """
        if ranks.size() == 1:
            return
        trainer = self._trainer
        settings = {**trainer.configuration(), "step": trainer.state.step, "phase": trainer.state.phase.value}
        settings |= {"max_steps": trainer.state.max_steps, "max_epochs": trainer.state.max_epochs}
        settings |= {f"the length of {name}": known_length(loader) for name, loader in self._loaders.items()}
        optimizers = {"ll_optimizer": trainer.ll_optimizer, "ul_optimizer": trainer.ul_optimizer}
        settings |= {f"{name}'s number of steps": optimizer.n_step for name, optimizer in optimizers.items()}
        _require_same(settings)
        self._share_values()

    def agree(self, state: TrainerState, received: signal.Signals | None) -> signal.Signals | None:
        """Let a stop that one rank asks for be that of all, and look whether they are still together.

        Args:
            state: where the run stands.
            received: the signal that has come to this rank.

        Returns:
            The signal that has come to any.

        Raises:
            RuntimeError: on all ranks, if variables have drifted apart.
        """
        reason = 0 if state.stop_reason is None else 1 + _REASONS.index(state.stop_reason)
        looks = state.step % STEPS_BETWEEN_LOOKS == 0 and state.step != self._looked_at_step
        marks = [mark for v in self._moving() for mark in _marks(v)] if looks else []
        rows = ranks.gathered([reason, 0 if received is None else int(received), *marks])
        if looks:
            self._looked_at_step = state.step
            _require_together([row[2:] for row in rows], state.step)
        reasons = [int(row[0]) for row in rows if row[0]]
        state.stop_reason = _REASONS[reasons[0] - 1] if reasons else None
        signals = [int(row[1]) for row in rows if row[1]]
        return signal.Signals(signals[0]) if signals else None

    def _moving(self) -> list[jt.Var]:
        return [*self._trainer.ul_var, *self._trainer.ll_var]

    def _share_values(self) -> None:
        """Give every rank what rank 0 holds, and say so if that changed anything."""
        trainer, run = self._trainer, self._trainer.current_run
        values = [*checkpoint.variables(trainer).values(), *(run.initialization or [])]
        values += [v for values in run.auxiliary.values() for v in values]
        for optimizer in (trainer.ll_optimizer, trainer.ul_optimizer):
            values += [
                v
                for group in optimizer.param_groups
                for listed in checkpoint_contents.var_lists(group).values()
                for v in listed
            ]
        rows = ranks.gathered([functools.reduce(_checksum, values, 0)])
        differing = [rank for rank, row in enumerate(rows) if row != rows[0]]
        if differing:
            ranks.broadcast(values)
            logger.warning(
                "rank %s started with other variables than rank 0, as models that each rank initialises by itself do: "
                "all ranks take those of rank 0",
                ", ".join(map(str, differing)),
            )


def _checksum(before: int, value: jt.Var) -> int:
    return zlib.crc32(value.numpy().tobytes(), before)


def _marks(value: jt.Var) -> tuple[float, float]:
    """A number that tells arrays apart, and how large it may be."""
    array = np.asarray(value.numpy(), np.float64).reshape(-1)
    return float(array @ np.cos(np.arange(array.size))), float(np.abs(array).sum())


def _require_together(rows: Sequence[Sequence[float]], step: int) -> None:
    """Require the marks of all ranks to be those of rank 0."""
    own = np.array(rows)
    marks, sizes = own[:, ::2], own[:, 1::2]
    far = np.abs(marks - marks[0]) > LARGEST_DRIFT * (sizes[0] + np.finfo(np.float32).tiny)
    apart = [rank for rank in range(len(rows)) if far[rank].any()]
    if apart:
        raise RuntimeError(
            f"rank {', '.join(map(str, apart))} drifted apart from rank 0 before the end of outer step {step}: what a "
            "callback or an objective does to variables has to be the same on all ranks"
        )


def _require_same(settings: dict[str, Any]) -> None:
    """Require settings to be the same on all ranks.

    Raises:
        ValueError: on all ranks, naming what differs first.
    """
    flat = checkpoint.flat(settings)
    own = json.dumps(flat, sort_keys=True, default=repr).encode()
    rows = ranks.gathered([zlib.crc32(own)])
    differing = [rank for rank, row in enumerate(rows) if row != rows[0]]
    if not differing:
        return
    first, other = (json.loads(ranks.broadcast_bytes(own, root=rank)) for rank in (0, differing[0]))
    names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
    different = "; ".join(f"{n} is {first.get(n, 'absent')!r} and {other.get(n, 'absent')!r}" for n in names)
    raise ValueError(f"all ranks have to do the same, but on ranks 0 and {differing[0]} {different}")

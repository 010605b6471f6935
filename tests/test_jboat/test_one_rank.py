"""With one process there is nothing to reduce, and what reduces costs nothing."""

from contextlib import nullcontext

from jboat import autodiff, levels, trajectory
from jboat.backend import ranks, replicated
import jittor as jt
from problems import Point
import pytest
from small_trainers import make

CHAINS = [(["NGD"], ["RAD"]), (["GDA", "DI", "NGD"], ["PTT", "RAD"]), (["GDA", "NGD"], ["CG"]), (["DM"], ["RAD"])]


class NothingLater:
    """What stands for sums that wait, where there is nothing of the kind."""

    def __init__(self, variables):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def pending(self):
        return []

    def cut(self, pending):
        assert not pending

    def added_to(self, derivatives):
        return list(derivatives)


def test_values_are_handed_on_as_they_are():
    v = jt.array([1.0, 2.0])
    for function in (replicated.shared, replicated.summed, ranks.total):
        assert function([v])[0] is v
    model, held = Point([1.0, 2.0]), []

    def objective(batch, ul_model, ll_model):
        held.append((ll_model.value.id, ul_model.value.id))
        return (ll_model() * ul_model()).sum()

    upper = Point([3.0, 4.0])
    loss = levels.call(objective, ranks.Shard({}, [1.0]), upper, model, parameters=[model.value])
    assert held == [(model.value.id, upper.value.id)]
    assert loss.item() == 11.0
    assert ranks.traffic() == ranks.Traffic()


@pytest.mark.parametrize(("gm_op", "na_op"), CHAINS, ids=str)
def test_no_more_kernels_operations_and_syncs_than_without(gm_op, na_op, loaded_kernels, monkeypatch):
    def counted():
        trainer = make(gm_op=gm_op, na_op=na_op)
        trainer.fit({}, {}, max_steps=2)
        synced = []
        with jt.profile_scope() as report, monkeypatch.context() as patch:
            sync = jt.sync
            patch.setattr(jt, "sync", lambda *args, **kwargs: (synced.append(0), sync(*args, **kwargs))[1])
            trainer.fit({}, {}, max_steps=2)
        return len(synced), sum(int(row[2]) for row in report[1:] if row[2].isdigit())

    with monkeypatch.context() as without:
        without.setattr(levels, "call", levels.call_here)
        without.setattr(levels, "reduced_together", lambda *args, **kwargs: nullcontext())
        without.setattr(trajectory, "LaterSums", NothingLater)
        without.setattr(autodiff.collective_order, "one_grad", nullcontext)
        expected = counted()
    loaded_kernels.restart()
    assert counted() == expected
    assert min(expected) > 0
    assert loaded_kernels.new() == []

"""How TensorBoard arranges what is written: the upper loss first, evaluations beside it, hyperparameters."""

from jboat.callbacks import StepTimer, TensorBoardLogger
import pytest
import small_trainers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2


def run(folder, **arguments):
    trainer = small_trainers.make(
        StepTimer(), TensorBoardLogger(folder), metrics={"size": lambda batch, ul_model, ll_model: 3.0}, **arguments
    )
    trainer.fit({}, {}, max_steps=3, val_loader={}, val_every=1)
    return trainer, EventAccumulator(str(folder)).Reload()


def test_the_upper_loss_comes_first_and_times_last(tmp_path):
    _, events = run(tmp_path)
    tags = sorted(events.Tags()["scalars"])
    assert tags[:2] == ["loss/ul_loss", "loss/val_ul_loss"]
    assert list(dict.fromkeys(tag.split("/")[0] for tag in tags)) == [
        "loss",
        "train",
        "val",
        "wall_seconds",
        "wall_shares",
    ]
    assert {tag for tag in tags if tag.startswith("wall_shares")} == {
        f"wall_shares/{part}" for part in ("lower", "hypergradient", "update", "callbacks", "data")
    }


def test_an_evaluation_shares_a_chart_with_its_counterpart(tmp_path):
    trainer, events = run(tmp_path)
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for group in layout.category for chart in group.chart}
    assert charts["ul_loss"] == ["loss/(val_)?ul_loss"]
    assert charts["size"] == ["(train|val)/size"]
    assert [e.value for e in events.Scalars("loss/val_ul_loss")] == pytest.approx(trainer.history["val_ul_loss"])


def test_hyperparameters_are_the_configuration_and_its_metrics_are_written(tmp_path):
    trainer, events = run(tmp_path, na_op=["CG"], solver_config={"CG": {"k": 7}}, seed=3)
    content = events.summary_metadata
    found = {}
    for tag in ("experiment", "session_start_info", "session_end_info"):
        data = plugin_data_pb2.HParamsPluginData()
        data.ParseFromString(content[f"_hparams_/{tag}"].plugin_data.content)
        found[tag] = data
    values = {
        k: v.number_value or v.string_value for k, v in found["session_start_info"].session_start_info.hparams.items()
    }
    assert values["solver_config.CG.k"] == 7.0
    assert values["na_op"] == "CG"
    assert values["ll_optimizer.lr"] == pytest.approx(0.1)
    assert values["lower_iters"] == 2.0
    wanted = [info.name.tag for info in found["experiment"].experiment.metric_infos]
    assert wanted == ["loss/ul_loss", "train/ll_loss", "loss/val_ul_loss", "val/size"]
    assert set(wanted) <= set(events.Tags()["scalars"])
    assert found["session_end_info"].session_end_info.status == 1  # success
    assert trainer.seed == values["seed"]

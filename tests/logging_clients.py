"""Stand-ins for the clients of experiment trackers: what the recipes call, by its real names and rules.

Compared with wandb 0.31, mlflow 3.17 and swanlab 0.10: a stand-in takes no argument that the client has not.
"""

import json
from types import ModuleType


def checked(metrics, step):
    assert isinstance(step, int)
    assert metrics
    assert all(isinstance(name, str) and isinstance(value, float | int) for name, value in metrics.items())
    return dict(metrics), step


class WandbRun:
    def __init__(self, **arguments):
        self.arguments, self.logged, self.exit_code = arguments, [], None

    def log(self, data, step=None):
        assert not self.logged or step >= self.logged[-1][1], "Weights & Biases drops what is of an earlier step"
        self.logged.append(checked(data, step))

    def finish(self, exit_code=None):
        assert self.exit_code is None, "finished twice"
        self.exit_code = exit_code


def clients():
    """Modules by name; what was logged is in the attributes ``runs`` of wandb and ``calls`` of the others."""
    wandb, mlflow, swanlab = (ModuleType(name) for name in ("wandb", "mlflow", "swanlab"))
    wandb.runs = []

    def init(project=None, config=None, **others):
        json.dumps(config)
        wandb.runs.append(WandbRun(project=project, config=config, **others))
        return wandb.runs[-1]

    wandb.init = init
    for module in (mlflow, swanlab):
        module.calls = []

    def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
        mlflow.calls.append(("start", run_name))

    def end_run(status="FINISHED"):
        assert status in ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
        mlflow.calls.append(("end", status))

    def start(*, project=None, config=None, name=None, mode=None, log_dir=None):
        assert mode in (None, "disabled", "online", "local", "offline")
        swanlab.calls.append(("start", project, json.dumps(config)))

    def finish(state="success", error=None):
        assert state in ("success", "crashed", "aborted")
        assert (state == "crashed") == (error is not None), "an error where it crashed"
        swanlab.calls.append(("end", state))

    mlflow.start_run, mlflow.end_run, swanlab.init, swanlab.finish = start_run, end_run, start, finish
    mlflow.log_dict = lambda dictionary, artifact_file: mlflow.calls.append(("dict", json.dumps(dictionary)))
    mlflow.log_metrics = lambda metrics, step=None: mlflow.calls.append(("metrics", *checked(metrics, step)))
    swanlab.log = lambda data, step=None: swanlab.calls.append(("metrics", *checked(data, step)))
    return {"wandb": wandb, "mlflow": mlflow, "swanlab": swanlab}

"""Stand-ins for the clients of experiment trackers: what the recipes call, by its real names and rules."""

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
    mlflow.start_run = lambda run_id=None, run_name=None: mlflow.calls.append(("start", run_name))
    mlflow.log_dict = lambda dictionary, artifact_file: mlflow.calls.append(("dict", json.dumps(dictionary)))
    mlflow.log_metrics = lambda metrics, step=None: mlflow.calls.append(("metrics", *checked(metrics, step)))
    mlflow.end_run = lambda status="FINISHED": mlflow.calls.append(("end", status))
    swanlab.init = lambda project=None, config=None: swanlab.calls.append(("start", project, json.dumps(config)))
    swanlab.log = lambda data, step=None: swanlab.calls.append(("metrics", *checked(data, step)))
    swanlab.finish = lambda: swanlab.calls.append(("end",))
    return {"wandb": wandb, "mlflow": mlflow, "swanlab": swanlab}

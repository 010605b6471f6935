"""Callbacks: what happens beside training."""

from jboat.callbacks import schedules
from jboat.callbacks.callback import HOOKS, Callback
from jboat.callbacks.csv_logger import CSVLogger
from jboat.callbacks.curve_plotter import CurvePlotter
from jboat.callbacks.di_schedule import DISchedule
from jboat.callbacks.early_stopping import EarlyStopping
from jboat.callbacks.gda_schedule import GDASchedule
from jboat.callbacks.gradient_clipping import GradientClipping
from jboat.callbacks.hypergradient_check import HypergradientCheck
from jboat.callbacks.jsonl_logger import JSONLLogger
from jboat.callbacks.lambda_callback import LambdaCallback
from jboat.callbacks.lower_gradient_norm import LowerGradientNorm
from jboat.callbacks.lr_schedule import LRSchedule
from jboat.callbacks.model_checkpoint import ModelCheckpoint
from jboat.callbacks.nan_guard import NaNGuard
from jboat.callbacks.progress_bar import ProgressBar
from jboat.callbacks.step_timer import StepTimer
from jboat.callbacks.tensorboard_logger import TensorBoardLogger

__all__ = [
    "HOOKS",
    "CSVLogger",
    "Callback",
    "CurvePlotter",
    "DISchedule",
    "EarlyStopping",
    "GDASchedule",
    "GradientClipping",
    "HypergradientCheck",
    "JSONLLogger",
    "LRSchedule",
    "LambdaCallback",
    "LowerGradientNorm",
    "ModelCheckpoint",
    "NaNGuard",
    "ProgressBar",
    "StepTimer",
    "TensorBoardLogger",
    "schedules",
]

"""Callbacks: what happens beside training."""

from jboat.callbacks.callback import HOOKS, Callback
from jboat.callbacks.csv_logger import CSVLogger
from jboat.callbacks.progress_bar import ProgressBar
from jboat.callbacks.tensorboard_logger import TensorBoardLogger

__all__ = ["HOOKS", "CSVLogger", "Callback", "ProgressBar", "TensorBoardLogger"]

"""Callbacks of `Trainer.fit`, in Keras's manner, one a file."""

from minidl.callbacks.base import Callback, as_callbacks
from minidl.callbacks.csv_logger import CSVLogger
from minidl.callbacks.early_stopping import EarlyStopping
from minidl.callbacks.gradient_monitor import GradientMonitor
from minidl.callbacks.learning_rate_monitor import LearningRateMonitor
from minidl.callbacks.model_checkpoint import ModelCheckpoint
from minidl.callbacks.optuna_pruning import OptunaPruning
from minidl.callbacks.progress_bar import ProgressBar
from minidl.callbacks.tensorboard import TensorBoard
from minidl.callbacks.terminate_on_nan import TerminateOnNaN
from minidl.callbacks.time_limit import TimeLimit

__all__ = [
    "CSVLogger", "Callback", "EarlyStopping", "GradientMonitor", "LearningRateMonitor",
    "ModelCheckpoint", "OptunaPruning", "ProgressBar", "TensorBoard", "TerminateOnNaN", "TimeLimit",
    "as_callbacks",
]  # fmt: skip

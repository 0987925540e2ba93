"""minidl: train small multilayer perceptrons on a CPU, fast."""

import typing

from minidl import initializers, metrics
from minidl.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    GradientMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    OptunaPruning,
    ProgressBar,
    TensorBoard,
    TerminateOnNaN,
    TimeLimit,
)
from minidl.config import get_config, show_config
from minidl.data import NpyFile
from minidl.errors import NonFiniteError
from minidl.files import FormatError
from minidl.history import History
from minidl.kernels import VERSION as __version__
from minidl.layers import (
    ELU,
    GELU,
    BatchNorm1d,
    Concat,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    Parallel,
    PReLU,
    ReLU,
    Residual,
    RMSNorm,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minidl.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    FunctionLoss,
    HingeLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    Loss,
    MSELoss,
    MultiMarginLoss,
    PoissonNLLLoss,
    QuantileLoss,
    SmoothL1Loss,
)
from minidl.metrics import Metric
from minidl.optimizers import SGD, Adagrad, Adam, AdamW, Lion, NAdam, Optimizer, RAdam, RMSprop
from minidl.parallel import get_num_threads, set_num_threads
from minidl.schedulers import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    Scheduler,
    SequentialLR,
    StepLR,
)
from minidl.serialization import load, save
from minidl.trainer import Trainer

if typing.TYPE_CHECKING:
    from minidl.convert import from_torch, to_torch
    from minidl.cross_validation import cross_validate
    from minidl.diagnosis import diagnose
    from minidl.ensemble import Ensemble
    from minidl.export import export_onnx
    from minidl.jacobians import jacobian, jacobian_spectrum
    from minidl.many import fit_many

__all__ = [
    "ELU", "GELU", "SGD", "Adagrad", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d",
    "CSVLogger", "Callback", "ChainedScheduler", "Concat", "ConstantLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "CrossEntropyLoss", "Dropout", "EarlyStopping", "Embedding",
    "Ensemble", "ExponentialLR", "Flatten", "FormatError", "FunctionLoss", "GradientMonitor",
    "HingeLoss", "History", "HuberLoss", "Identity", "KLDivLoss", "L1Loss", "LambdaLR", "Layer",
    "LayerNorm", "LeakyReLU", "LearningRateMonitor", "Linear", "LinearLR", "Lion", "Loss",
    "MSELoss", "Metric", "ModelCheckpoint", "MultiMarginLoss", "MultiStepLR", "NAdam",
    "NonFiniteError", "NpyFile", "OneCycleLR", "Optimizer", "OptunaPruning", "PReLU", "Parallel",
    "PoissonNLLLoss", "PolynomialLR", "ProgressBar", "QuantileLoss", "RAdam", "RMSNorm", "RMSprop",
    "ReLU", "ReduceLROnPlateau", "Residual", "Scheduler", "Sequential", "SequentialLR", "SiLU",
    "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "StepLR", "Tanh", "TensorBoard",
    "TerminateOnNaN", "TimeLimit", "Trainer", "__version__", "cross_validate", "diagnose",
    "export_onnx", "fit_many", "from_torch", "get_config", "get_num_threads", "initializers",
    "jacobian", "jacobian_spectrum", "load", "metrics", "save", "set_num_threads", "show_config",
    "to_torch",
]  # fmt: skip

# Imported when first asked for: most programs do without.
_LATER = {
    "Ensemble": "ensemble", "cross_validate": "cross_validation", "diagnose": "diagnosis",
    "export_onnx": "export", "fit_many": "many", "from_torch": "convert",
    "jacobian": "jacobians", "jacobian_spectrum": "jacobians", "to_torch": "convert",
}  # fmt: skip


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

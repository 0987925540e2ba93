"""minidl: train small multilayer perceptrons on a CPU, fast."""

from minidl import initializers, metrics
from minidl.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    TensorBoard,
    TerminateOnNaN,
    TimeLimit,
)
from minidl.config import get_config, show_config
from minidl.errors import NonFiniteError
from minidl.history import History
from minidl.kernels import VERSION as __version__
from minidl.layers import (
    ELU,
    GELU,
    BatchNorm1d,
    Concat,
    Dropout,
    Flatten,
    Identity,
    Layer,
    LeakyReLU,
    Linear,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
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
from minidl.optimizers import SGD, Adam, AdamW, Optimizer
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
from minidl.serialization import FormatError, load, save
from minidl.trainer import Trainer

__all__ = [
    "ELU", "GELU", "SGD", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d", "CSVLogger",
    "Callback", "ChainedScheduler", "Concat", "ConstantLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "CrossEntropyLoss", "Dropout", "EarlyStopping", "ExponentialLR",
    "Flatten", "FormatError", "FunctionLoss", "HingeLoss", "History", "HuberLoss", "Identity",
    "KLDivLoss", "L1Loss", "LambdaLR", "Layer", "LeakyReLU", "LearningRateMonitor", "Linear",
    "LinearLR", "Loss", "MSELoss", "Metric", "ModelCheckpoint", "MultiMarginLoss", "MultiStepLR",
    "NonFiniteError", "OneCycleLR", "Optimizer", "Parallel", "PoissonNLLLoss", "PolynomialLR",
    "ProgressBar", "QuantileLoss", "ReLU", "ReduceLROnPlateau", "Residual", "Scheduler",
    "Sequential", "SequentialLR", "SiLU", "Sigmoid", "SmoothL1Loss", "Softplus", "StepLR", "Tanh",
    "TensorBoard", "TerminateOnNaN", "TimeLimit", "Trainer", "__version__", "get_config",
    "get_num_threads", "initializers", "load", "metrics", "save", "set_num_threads", "show_config",
]  # fmt: skip

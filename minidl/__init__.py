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
from minidl.optimizers import SGD, Adam, AdamW, Optimizer
from minidl.parallel import get_num_threads, set_num_threads
from minidl.serialization import FormatError, load, save
from minidl.trainer import Trainer

__all__ = [
    "ELU", "GELU", "SGD", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d", "CSVLogger",
    "Callback", "Concat", "CrossEntropyLoss", "Dropout", "EarlyStopping", "Embedding", "Flatten",
    "FormatError", "FunctionLoss", "HingeLoss", "History", "HuberLoss", "Identity", "KLDivLoss",
    "L1Loss", "Layer", "LayerNorm", "LeakyReLU", "LearningRateMonitor", "Linear", "Loss", "MSELoss",
    "Metric", "ModelCheckpoint", "MultiMarginLoss", "NonFiniteError", "Optimizer", "PReLU",
    "Parallel", "PoissonNLLLoss", "ProgressBar", "QuantileLoss", "RMSNorm", "ReLU", "Residual",
    "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "TensorBoard",
    "TerminateOnNaN", "TimeLimit", "Trainer", "__version__", "get_config", "get_num_threads",
    "initializers", "load", "metrics", "save", "set_num_threads", "show_config",
]  # fmt: skip

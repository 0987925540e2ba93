"""Checkpoints: a training as one safetensors file, from which it goes on to the bit. No pickle.

Tensors are the parameters and running averages (``model.*``), the optimizer's states
(``moment0.*``, ...) and the moving average (``average.*``), in PyTorch's shapes. All else is JSON in
the metadata: architecture, loss, optimizer, schedule and metrics by name and arguments, the place
in the training, seeds, history, and what callbacks keep.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.files import write_atomically
from minidl.history import History
from minidl.layers.base import Layer
from minidl.memory import Array
from minidl.serialization import FormatError, architecture, build, read_tensors

if TYPE_CHECKING:
    from minidl.optimizers import OptimizerState
    from minidl.trainer import Trainer

# json and safetensors are imported where they are used: `import minidl` stays cheap.

FORMAT = "minidl-checkpoint-1"

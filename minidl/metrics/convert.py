"""From the network's raw outputs to what metrics need: labels, probabilities, columns."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from minidl.memory import Array

# What a loss says of the outputs: logits of classes (N, C), logits of yes and no (N, K), values;
# None: a function of the user's, which does not say.
Task: TypeAlias = Literal["multiclass", "binary", "regression"] | None


def flat(x: Array) -> Array:
    """One column as (N,)."""
    return x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x


def columns(x: Array) -> Array:
    """(N,) as one column, in float64."""
    return np.asarray(x, np.float64).reshape(len(x), -1)


def true_labels(y: Array, task: Task) -> Array:
    """Class numbers (N,), or zeros and ones (N,) or (N, K); of probabilities, the likeliest."""
    y = flat(y)
    if task == "binary":
        y = y > 0.5
    labels: Array = y if y.ndim == 1 or task == "binary" else y.argmax(axis=1)
    return labels.astype(np.intp)


def predicted_labels(outputs: Array, task: Task) -> Array:
    """The same of logits."""
    labels: Array = flat(outputs) > 0 if task == "binary" else outputs.argmax(axis=1)
    return labels.astype(np.intp)


def probabilities(outputs: Array, task: Task) -> Array:
    """Softmax (N, C), or sigmoid (N,) or (N, K), in float64."""
    z = np.asarray(outputs, np.float64)
    p: Array
    if task == "binary":
        p = np.exp(-np.logaddexp(0, -flat(z)))
    else:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    return p

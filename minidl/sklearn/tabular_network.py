"""The network of the tabular estimators, and its training: the recipe in one place.

The network is a multilayer perceptron over what `TabularEncoder` gives, with embeddings for columns
of codes; a hidden layer as wide as the one before is a residual block, which adds to its input.
Weights begin as N(0, 1 / fan in), biases as N(0, 1), so that kinks lie all over the data, the last
layer at zero. Each weight matrix has a rate of its own, ``lr / sqrt(fan in)``, which is what the
neural tangent parametrization does in RealMLP: then one `lr` suits all widths. The rate goes
through cosine cycles, each twice as long as the one before, so that there is a finished model at
the end of each; after a cycle that has brought nothing, training ends. The weights kept are the
best on the rows held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import minidl
from minidl.layers import activation as activation_by_name
from minidl.layers.base import Layer
from minidl.memory import Array

CYCLES = 3  # of the schedule: 1 + 2 + 4 times the first; one if there are too few epochs
BETAS = (0.9, 0.95)
BIAS_RATE = 0.1  # of the rate of a weight matrix with one column
EMBEDDING_RATE = 0.5


class Rows(NamedTuple):
    """Rows as a network reads them: inputs, targets, and weights or None."""

    X: Array
    y: Array
    weight: Array | None


class Recipe(NamedTuple):
    """How a network is made and trained; see the parameters of the estimators."""

    hidden_layer_sizes: Sequence[int]
    activation: str
    dropout: float
    embedding_dim: int
    lr: float
    weight_decay: float
    batch_size: int
    cycles: int
    first_cycle: int  # epochs
    loss: minidl.Loss

    @property
    def epochs(self) -> int:
        """Epochs of all cycles."""
        return int(self.first_cycle * (2**self.cycles - 1))


def _unit_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """N(0, 1 / fan in) for a weight matrix, N(0, 1) for a bias."""
    return rng.normal(0.0, 1 / math.sqrt(shape[1]) if len(shape) == 2 else 1.0, shape)


def build(
    recipe: Recipe, dense: int, cardinalities: Sequence[int], outputs: int, seed: int
) -> minidl.Sequential:
    """The network for `dense` columns of numbers and columns of so many codes each."""
    layers: list[Layer] = []
    width = dense
    if cardinalities:
        dims = [min(recipe.embedding_dim, math.isqrt(n) + 1) for n in cardinalities]
        tables = [minidl.Embedding(n, d) for n, d in zip(cardinalities, dims, strict=True)]
        numbers: list[Layer] = [minidl.Identity()] if dense else []
        columns = [dense] * bool(dense) + [1] * len(tables)
        layers.append(minidl.Parallel(*numbers, *tables, columns=columns))
        width += sum(dims)
    for i, size in enumerate(recipe.hidden_layer_sizes):
        linear = minidl.Linear(width, size, weight_init=_unit_normal, bias_init=_unit_normal)
        block = [linear, activation_by_name(recipe.activation)]
        if recipe.dropout:
            block.append(minidl.Dropout(recipe.dropout))
        if i > 0 and size == width:
            block = [minidl.Residual(minidl.Sequential(*block))]
        layers += block
        width = size
    layers.append(minidl.Linear(width, outputs, weight_init="zeros", bias_init="zeros"))
    return minidl.Sequential(*layers, seed=seed)


def code_columns(model: Layer) -> list[minidl.Embedding]:
    """The embeddings of a network, in the order of the columns of codes."""
    _, first = next(iter(model.children()))
    if not isinstance(first, minidl.Parallel):
        return []
    return [branch for _, branch in first.children() if isinstance(branch, minidl.Embedding)]


def fill_unseen(model: Layer, X: Array, dense: int) -> None:
    """Codes that no row of X has, behind `dense` numbers, get the mean vector of those it has."""
    for j, table in enumerate(code_columns(model)):
        counts = np.bincount(X[:, dense + j].astype(np.intp), minlength=table.num_embeddings)
        weight = table.weight.copy()
        weight[counts == 0] = counts @ weight / counts.sum()
        table.weight = weight


def optimizer(recipe: Recipe, model: minidl.Sequential) -> minidl.Optimizer:
    """AdamW, with the rates of weights by their fan in."""
    groups: list[dict[str, Any]] = []
    by_fan_in: dict[int, list[str]] = {}
    for name, layer in model.tree():
        if isinstance(layer, minidl.Linear):
            by_fan_in.setdefault(layer.in_features, []).append(f"{name}.weight")
        elif isinstance(layer, minidl.Parallel):
            groups.append(
                {"params": f"{name}.*", "lr": recipe.lr * EMBEDDING_RATE, "weight_decay": 0.0}
            )
    for fan_in, names in by_fan_in.items():
        groups.append({"params": names, "lr": recipe.lr / math.sqrt(fan_in)})
    groups.append({"params": "*.bias", "lr": recipe.lr * BIAS_RATE, "weight_decay": 0.0})
    return minidl.AdamW(recipe.lr, BETAS, weight_decay=recipe.weight_decay, groups=groups)


class CycleStopping(minidl.EarlyStopping):
    """Keeps the best weights, and stops at the end of a cycle in which there were none better."""

    def __init__(self, first_cycle: int, cycles: int) -> None:
        super().__init__("val_loss", patience=2**31, restore_best_weights=True)
        self.ends = {first_cycle * (2**i - 1) for i in range(1, cycles)}
        self.begin = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look at the result; at the end of a cycle, stop if it has brought nothing."""
        super().on_epoch_end(epoch, logs)
        if epoch + 1 in self.ends:
            if self.best_epoch is None or self.best_epoch < self.begin:
                self.stopped_epoch = epoch
                self.trainer.stop_training = True
            self.begin = epoch + 1


def trainer_for(recipe: Recipe, model: minidl.Sequential, rows: int) -> minidl.Trainer:
    """The trainer of a network on so many rows."""
    steps = -(-rows // recipe.batch_size)
    schedule = minidl.CosineAnnealingWarmRestarts(recipe.first_cycle * steps, 2, interval="step")
    return minidl.Trainer(model, recipe.loss, optimizer(recipe, model), scheduler=schedule)


def train(
    trainings: Sequence[tuple[minidl.Trainer, Array, int]],
    recipe: Recipe,
    rows: Rows,
    verbose: bool,
) -> None:
    """Train each trainer on the rows outside of its fold, a mask, with its seed; side by side.

    The models are left with the weights that are best on the rows of the fold.
    """
    trainers, folds, seeds = (list(part) for part in zip(*trainings, strict=True))
    minidl.fit_many(
        trainers,
        rows.X,
        rows.y,
        rows=[~fold for fold in folds],
        sample_weight=rows.weight,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        last_batch="keep",
        seed=seeds,
        validation_rows=folds,
        callbacks=[CycleStopping(recipe.first_cycle, recipe.cycles)],
        on_error="raise",
        verbose=int(verbose),
    )
    for trainer in trainers:
        trainer.model.eval()

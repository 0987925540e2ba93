"""What a model gives for data, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np

from minidl import changes, checks
from minidl.inputs import open_inputs
from minidl.layers.base import Layer
from minidl.lowering import BatchProgram, feed, mode, signature
from minidl.memory import Array, empty

CACHED_ROWS = 1024  # of a batch, so that activations stay in cache
QUICK_ROWS = 16  # that are predicted without setting up anything, and more of a small network:
QUICK_WORK = 1_700_000  # as many as take so many floating-point operations
OUTPUT = "the output"  # in errors


def predict(model: Layer, x: Any, batch_size: int | None) -> Array:
    """Output of a model in evaluation mode."""
    if batch_size is not None:
        batch_size = checks.positive_int(batch_size, "batch_size")
    data = open_inputs(model, x, names=("x", "y", "sample_weight"), targets=False)
    if data.rows == 0:
        data.load()
    if data.in_memory:
        return predict_rows(model, data.x, batch_size)
    from minidl.data.background import ahead

    size = batch_size or CACHED_ROWS
    with ahead(data.blocks(None, size, last="keep")) as blocks:
        parts = (predict_rows(model, block.x, batch_size, block.start) for block in blocks)
        return np.concatenate(list(parts)) if data.rows is None else _joined(parts, data.rows)


def _joined(parts: Iterator[Array], rows: int) -> Array:
    """Parts one below the other; whether there is room for all of them is known with the first."""
    first = next(parts)
    out = empty((rows, first.shape[1]), first.dtype, OUTPUT)
    end = 0
    for part in chain([first], parts):
        start, end = end, end + len(part)
        out[start:end] = part
    return out


def predict_rows(model: Layer, x: list[Array], batch_size: int | None, first: int = 0) -> Array:
    """Output for rows in memory; `first` is the number of the first."""
    version = changes.version
    columns, count = sum(part.shape[1] for part in x), len(x[0])
    checks.categories(x, model.categories(0, columns), "x", first)
    rows = max(min(batch_size or CACHED_ROWS, count), QUICK_ROWS)
    # Taken out while it runs: another thread that predicts at the same time makes its own.
    cached = model.__dict__.pop("_predictor", None)
    key = signature(model, columns, training=False)
    if cached is None or cached[0] != key or cached[1].rows < rows:
        cached = key, BatchProgram(model, columns, rows, training=False)
    batch: BatchProgram = cached[1]
    out = empty((count, batch.columns), model.dtype, OUTPUT)
    if count:
        feed(batch.program, None, x, None, min(batch_size or CACHED_ROWS, count), out=out)
        batch.program.seek(0, 0, 0, 0)
        # Layers in Python read their flags as they run; no other flag is touched.
        with mode(model, False) if batch.plan.calls else nullcontext():
            while batch.program.run(1, 0.1)[0] == "time":
                pass
    if len(x) == 1 and not batch.plan.calls and not any(model.categories(0, columns)):
        quick = _quick_rows(batch)
        batch.program.prepare_quick(np.ndarray, model.dtype, columns, batch.columns, quick)
        model.__dict__["_quick"] = version, batch.program.quick
    model.__dict__["_predictor"] = cached  # last: the next thread may take it at once
    return out


def _quick_rows(batch: BatchProgram) -> int:
    """Rows that one thread has predicted before a call is set up for more."""
    forward = batch.plan.work / (3 * batch.plan.rows)  # of a row; `work` counts backward too
    return min(batch.rows, max(QUICK_ROWS, int(QUICK_WORK / max(forward, 1))))

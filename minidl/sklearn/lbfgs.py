"""The solver "lbfgs": SciPy's L-BFGS-B over the flat vector of the parameters, in float64.

Loss and gradient of all rows come from a compiled program; the padding of the vector is zero, and
so is its gradient. Byrd, Lu, Nocedal and Zhu, SIAM Journal on Scientific Computing 16, 1995.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from minidl.evaluation import blocks_of
from minidl.inputs import open_inputs
from minidl.layers import Sequential
from minidl.lowering import Plan, feed, mode
from minidl.memory import Array
from minidl.sklearn.network import Penalty
from minidl.sklearn.objectives import Objective

ROWS = 1024  # of a batch: its activations stay in cache


class Function:
    """The objective and its gradient, as functions of the vector of the parameters.

    Parameters
    ----------
    model : Sequential
        Of float64; its parameters are those that were asked for last.
    objective : Objective
    penalty : Penalty
    X, y, weight
        As the loss takes them.
    whole : bool
        All rows are one batch, as BatchNorm needs it.
    """

    def __init__(
        self,
        model: Sequential,
        objective: Objective,
        penalty: Penalty,
        X: Any,
        y: Array,
        weight: Array | None,
        whole: bool,
    ) -> None:
        self.model, self.objective, self.penalty = model, objective, penalty
        self.data = open_inputs(model, X, y, weight)
        rows = self.data.rows or 0
        if whole and not self.data.in_memory:
            raise ValueError(
                'batch_norm: expected False with solver="lbfgs" and sparse X, whose rows are made '
                "dense in parts, got True"
            )
        self.loss = objective.loss.bound(self.data.y_like, weight is not None)
        if self.data.in_memory:
            self.data.y = self.loss.check(self.data.y, rows, objective.outputs, model.dtype)
        self.weight = float(rows) if weight is None else float(weight.sum()) or 1.0
        self.store = model.store()
        self.size = self.store.trainable
        self.batch_size = rows if whole else min(ROWS, rows)
        columns = model.in_features_or_none() or 0
        with mode(model, True):
            plan = Plan(model, columns, self.batch_size, model.dtype, split_input=True)
            plan.batch(self.loss)
            dz = plan.loss(self.loss, plan.forward())
            plan.backward(dz)
            plan.barrier()
            plan.emit("LOSS_TOTAL", [plan.partial], [])
            plan.update()
            self.program = plan.build(list)

    def __call__(self, point: Array) -> tuple[float, Array]:
        """The value at a point, and the gradient."""
        self.store.values[: self.size] = point
        slope, gradient, total = self.objective.slope, np.zeros(self.size), 0.0
        with blocks_of(self.data, self.batch_size) as blocks:
            for block in blocks:
                loss, weight = self._run(block)
                total += loss
                if weight:
                    part = self.store.gradients[: self.size]
                    gradient += part if weight == self.weight else part * (weight / self.weight)
        if not np.isfinite(total):
            return np.inf, np.zeros(self.size)
        value = (slope * total + self.penalty.value()) / self.weight
        gradient *= slope
        self.penalty.add_gradient(gradient, 1 / self.weight)
        return value, gradient

    def reported(self, value: float) -> float:
        """What users see of a value at the point where the model is."""
        penalty = self.penalty.value() / self.weight
        return self.objective.value((value - penalty) / self.objective.slope) + penalty

    def _run(self, block: Any) -> tuple[float, float]:
        """Weighted loss and weight of some rows; their mean gradient is then in the store."""
        rows, y = len(block.x[0]), block.y
        if not self.data.in_memory:
            y = self.loss.check(y, rows, self.objective.outputs, self.model.dtype)
        size = min(self.batch_size, rows)
        self.program.set_optimizer(kind=0, lr=0.0, weight_decay=0.0, accumulate=-(-rows // size))
        feed(self.program, self.loss, block.x, y, size, weight=block.weight)
        self.program.seek(0, 0, 0, 0)
        status = "time"
        while status == "time":
            status, _, _ = self.program.run(1, 0.1)
        loss, _, weight, _ = self.program.sums
        return (loss, weight) if status == "done" else (np.nan, weight)


def solve(
    function: Function,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    time_limit: float | None,
    note: Callable[[float], None],
) -> OptimizeResult:
    """The point that L-BFGS-B finds, which becomes the model's parameters.

    Parameters
    ----------
    function : Function
    max_iter, max_fun, tol
        As those of `MLPClassifier`.
    time_limit : float, optional
        Seconds.
    note : function
        Called after each iteration, when the model has its parameters, with the value.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With `time_up`.
    """
    end = np.inf if time_limit is None else time.monotonic() + time_limit
    time_up = False

    def iteration_ended(intermediate_result: OptimizeResult) -> None:
        nonlocal time_up
        function.store.values[: function.size] = intermediate_result.x
        note(float(intermediate_result.fun))
        if time.monotonic() >= end:
            time_up = True
            raise StopIteration

    with mode(function.model, True):
        found = minimize(
            function,
            function.store.values[: function.size].copy(),
            jac=True,
            method="L-BFGS-B",
            callback=iteration_ended,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    function.store.values[: function.size] = found.x
    found.time_up = time_up
    return found

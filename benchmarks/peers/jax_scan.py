"""JAX: an epoch is one compiled `lax.scan` over batches, and gives its buffers back (donation)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import BN_EPS, BN_MOMENTUM, MOMENTUM, Case

from peers.base import System, Weights

ACTIVATIONS = {"relu": lambda x: jnp.maximum(x, 0), "tanh": jnp.tanh}
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def forward(case: Case, parameters: list[Any], running: list[Any], x: jax.Array) -> Any:
    """Output, and BatchNorm's running averages after this batch."""
    moved = []
    for i, p in enumerate(parameters):
        x = x @ p["weight"] + p["bias"]
        if i == len(parameters) - 1:
            break
        if case.batch_norm:
            mean, var = x.mean(axis=0), x.var(axis=0)
            x = (x - mean) * (p["gamma"] * jax.lax.rsqrt(var + BN_EPS)) + p["beta"]
            unbiased = var * (case.batch / (case.batch - 1))
            moved.append(
                {
                    "mean": (1 - BN_MOMENTUM) * running[i]["mean"] + BN_MOMENTUM * mean,
                    "var": (1 - BN_MOMENTUM) * running[i]["var"] + BN_MOMENTUM * unbiased,
                }
            )
        x = ACTIVATIONS[case.activation](x)
    return x, moved


def loss_of(case: Case, parameters: list[Any], running: list[Any], x: Any, y: Any) -> Any:
    """Mean loss of a batch, and the running averages."""
    output, moved = forward(case, parameters, running, x)
    if case.loss == "mse":
        return jnp.mean((output - y) ** 2), moved
    chosen = jax.nn.one_hot(y, output.shape[1], dtype=output.dtype)  # on CPUs faster than a gather
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(output) * chosen, axis=1)), moved


def adam(case: Case, step: Any, p: Any, g: Any, moments: Any) -> Any:
    """Adam, on one array."""
    m = BETA1 * moments["m"] + (1 - BETA1) * g
    v = BETA2 * moments["v"] + (1 - BETA2) * g * g
    root = jnp.sqrt(1 - BETA2**step)
    p = p - case.learning_rate / (1 - BETA1**step) * m / (jnp.sqrt(v) / root + EPS)
    return p, {"m": m, "v": v}


def sgd(case: Case, step: Any, p: Any, g: Any, moments: Any) -> Any:
    """SGD with momentum, on one array."""
    m = MOMENTUM * moments["m"] + g
    return p - case.learning_rate * m, {"m": m}


@cache
def compiled_epoch(case: Case) -> Callable[..., Any]:
    """(state, X, y) to (state, mean loss); X and y are batches, one after another."""
    update = adam if case.optimizer == "adam" else sgd

    def step(state: Any, batch: Any) -> Any:
        parameters, running, moments, count = state
        count = count + 1
        (loss, running), gradients = jax.value_and_grad(partial(loss_of, case), has_aux=True)(
            parameters, running, *batch
        )
        moved = [
            {name: update(case, count, p[name], g[name], m[name]) for name in p}
            for p, g, m in zip(parameters, gradients, moments, strict=True)
        ]
        parameters = [{name: pair[0] for name, pair in layer.items()} for layer in moved]
        moments = [{name: pair[1] for name, pair in layer.items()} for layer in moved]
        return (parameters, running, moments, count), loss

    def epoch(state: Any, X: Any, y: Any) -> Any:
        state, losses = jax.lax.scan(step, state, (X, y))
        return state, losses.mean()

    return jax.jit(epoch, donate_argnums=0)


class Jax(System):
    """XLA takes as many threads as the process has CPUs; compiled code is kept over starts."""

    def versions(self) -> dict[str, str]:
        """JAX and XLA's package."""
        import jaxlib

        return {"JAX": jax.__version__, "jaxlib": jaxlib.__version__}

    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """State and batches on the device; weights as (in, out)."""
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        self.epoch = compiled_epoch(case)
        batches = (case.steps, case.batch)
        self.X = jnp.asarray(X.reshape(*batches, -1))
        self.y = jnp.asarray(y.reshape(*batches, *y.shape[1:]))
        parameters: list[dict[str, Any]] = []
        running = []
        for i, (weight, bias) in enumerate(weights):
            parameters.append({"weight": jnp.array(weight.T), "bias": jnp.array(bias)})
            if case.batch_norm and i < len(weights) - 1:
                parameters[-1] |= {"gamma": jnp.ones_like(bias), "beta": jnp.zeros_like(bias)}
                running.append({"mean": jnp.zeros_like(bias), "var": jnp.ones_like(bias)})
        names = ("m", "v") if case.optimizer == "adam" else ("m",)
        moments = [
            {name: {m: jnp.zeros_like(array) for m in names} for name, array in p.items()}
            for p in parameters
        ]
        self.training = (parameters, running, moments, jnp.zeros((), case.dtype))

    def run(self, epochs: int) -> float:
        """Python calls the next epoch while one is still being computed."""
        for _ in range(epochs):
            self.training, loss = self.epoch(self.training, self.X, self.y)
        jax.block_until_ready(self.training)
        return float(loss)

    def state(self) -> dict[str, np.ndarray]:
        """Copies."""
        parameters, running, _, _ = self.training
        found = {f"weight{i}": p["weight"].T for i, p in enumerate(parameters)}
        for i, (p, r) in enumerate(zip(parameters, running, strict=False)):
            found |= {f"gamma{i}": p["gamma"], f"beta{i}": p["beta"], f"var{i}": r["var"]}
        return {name: np.array(array) for name, array in found.items()}


SYSTEM = Jax

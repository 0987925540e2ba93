"""Many small models at once: minidl's fit_many beside JAX, PyTorch and scikit-learn.

    python benchmarks/many.py [--models 64] [--epochs 25] [--rounds 3] [--json many.json]

Copies of the digits network, 64-64-32-10 with ReLU, that differ in their starting weights, are
trained on scikit-learn's digits in float32: batches of 64 in the order of the rows, cross-entropy,
Adam. All systems begin with the same weights and go through the same batches:

minidl, in turn: `fit` with one thread, one model after the other
minidl: `fit_many` on all cores
JAX: the whole training is one `jit`ted `lax.scan`, under `jax.vmap` over the models
PyTorch: `torch.func.vmap` of `grad` over stacked parameters, Adam written for these
scikit-learn: `MLPClassifier` under joblib, a process for each core

Each works in a process of its own, which is warm when it is timed: programs are compiled, workers
of joblib's have started. Processes take turns, the best time of all rounds counts. Mean loss of the
last epoch and accuracy, averaged over the models, must agree with those of minidl in turn; if they
do not, the exit code is 1. What is not installed is left out. On an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import machine
import numpy as np
from sklearn.datasets import load_digits

SIZES, BATCH, RATE = (64, 64, 32, 10), 64, 1e-3
PAUSE = 0.1  # seconds before a timing: idle threads spin for a while
TOLERANCES = {"loss": 0.02, "accuracy": 0.005}  # relative, absolute; float32 rounds differently

Weights = list[tuple[np.ndarray, np.ndarray]]
Trained = tuple[list[float], list[Weights]]  # losses of the last epoch, and weights, of each model


def data() -> tuple[np.ndarray, np.ndarray]:
    """Whole batches of digits."""
    X, y = load_digits(return_X_y=True)
    rows = len(X) // BATCH * BATCH
    return (X[:rows] / 16).astype(np.float32), y[:rows]


def starts(models: int) -> list[Weights]:
    """Weight (out, in) and bias of each layer of each model, as PyTorch draws them."""
    found = []
    for seed in range(models):
        rng = np.random.default_rng(seed)
        layers = []
        for inputs, outputs in pairwise(SIZES):
            bound = inputs**-0.5
            weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
            layers.append((weight, rng.uniform(-bound, bound, outputs).astype(np.float32)))
        found.append(layers)
    return found


def accuracy(layers: Weights, X: np.ndarray, y: np.ndarray) -> float:
    """Share of right rows."""
    for i, (weight, bias) in enumerate(layers):
        X = X @ weight.T + bias
        X = np.maximum(X, 0) if i < len(layers) - 1 else X
    return float((X.argmax(axis=1) == y).mean())


# Systems: each gives a function that makes all models anew and one that trains them.


def trainers(weights: list[Weights]) -> list[Any]:
    """Trainers of minidl."""
    import minidl

    made = []
    for layers in weights:
        linears = [minidl.Linear(inputs, outputs) for inputs, outputs in pairwise(SIZES)]
        for linear, (weight, bias) in zip(linears, layers, strict=True):
            linear.weight, linear.bias = weight, bias
        inner = [part for linear in linears[:-1] for part in (linear, minidl.ReLU())]
        model = minidl.Sequential(*inner, linears[-1])
        made.append(minidl.Trainer(model, optimizer=minidl.Adam(RATE)))
    return made


def trained_by(made: list[Any]) -> Trained:
    """What trainers have come to."""
    linears = [[one for _, one in t.model.layers() if hasattr(one, "weight")] for t in made]
    losses = [trainer.history.history["loss"][-1] for trainer in made]
    return losses, [[(one.weight, one.bias) for one in layers] for layers in linears]


def minidl_in_turn(weights: list[Weights], epochs: int) -> Any:
    """One thread, one model after the other."""
    import minidl

    X, y = data()
    minidl.set_num_threads(1)

    def train(made: list[Any]) -> list[Any]:
        for one in made:
            one.fit(X, y, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0)
        return made

    return lambda: trainers(weights), train, trained_by


def minidl_fit_many(weights: list[Weights], epochs: int) -> Any:
    """All cores."""
    import minidl

    X, y = data()

    def train(made: list[Any]) -> list[Any]:
        minidl.fit_many(made, X, y, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0)
        return made

    return lambda: trainers(weights), train, trained_by


def stacked(weights: list[Weights]) -> list[dict[str, np.ndarray]]:
    """Parameters of all models, layer by layer: weight (models, out, in), bias (models, out)."""
    return [
        {"weight": np.stack([w for w, _ in layer]), "bias": np.stack([b for _, b in layer])}
        for layer in zip(*weights, strict=True)
    ]


def apart(layers: list[dict[str, Any]]) -> list[Weights]:
    """The weights of each model."""
    count = len(layers[0]["weight"])
    arrays = [(np.asarray(layer["weight"]), np.asarray(layer["bias"])) for layer in layers]
    return [[(weight[i], bias[i]) for weight, bias in arrays] for i in range(count)]


def jax_vmap(weights: list[Weights], epochs: int) -> Any:
    """One compiled function for all trainings."""
    import jax
    import jax.numpy as jnp

    X, y = data()
    batches = jnp.asarray(X.reshape(-1, BATCH, 64)), jnp.asarray(y.reshape(-1, BATCH))

    def loss_of(layers: Any, x: Any, label: Any) -> Any:
        for i, layer in enumerate(layers):
            x = x @ layer["weight"].T + layer["bias"]
            x = jnp.maximum(x, 0) if i < len(layers) - 1 else x
        chosen = jax.nn.one_hot(label, 10, dtype=x.dtype)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(x) * chosen, axis=1))

    def step(state: Any, batch: Any) -> Any:
        layers, m, v, count = state
        count = count + 1
        loss, g = jax.value_and_grad(loss_of)(layers, *batch)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        root, rate = jnp.sqrt(1 - 0.999**count), RATE / (1 - 0.9**count)
        layers = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), layers, m, v
        )
        return (layers, m, v, count), loss

    def epoch(state: Any, _: Any) -> Any:
        state, losses = jax.lax.scan(step, state, batches)
        return state, losses.mean()

    def training(layers: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, layers)
        state = layers, zeros, zeros, jnp.zeros((), jnp.float32)
        (layers, *_), losses = jax.lax.scan(epoch, state, None, epochs)
        return layers, losses[-1]

    compiled = jax.jit(jax.vmap(training))
    return (
        lambda: jax.tree.map(jnp.asarray, stacked(weights)),
        lambda layers: jax.block_until_ready(compiled(layers)),
        lambda done: (np.asarray(done[1]).tolist(), apart(done[0])),
    )


def torch_vmap(weights: list[Weights], epochs: int) -> Any:
    """Eager steps over stacked parameters."""
    import torch
    from torch.func import grad_and_value, vmap

    torch.set_num_threads(len(machine.cpus()))
    X, y = (torch.from_numpy(array) for array in data())

    def loss_of(layers: Any, x: Any, label: Any) -> Any:
        for i, layer in enumerate(layers):
            x = torch.nn.functional.linear(x, layer["weight"], layer["bias"])
            x = torch.relu(x) if i < len(layers) - 1 else x
        return torch.nn.functional.cross_entropy(x, label)

    gradients = vmap(grad_and_value(loss_of), in_dims=(0, None, None))

    def train(layers: Any) -> Any:
        names = [(i, name) for i, layer in enumerate(layers) for name in layer]
        flat = [layers[i][name] for i, name in names]
        m, v = ([torch.zeros_like(p) for p in flat] for _ in range(2))
        count = 0
        with torch.no_grad():
            for _ in range(epochs):
                losses = []
                for start in range(0, len(X), BATCH):
                    x, label = X[start : start + BATCH], y[start : start + BATCH]
                    found, loss = gradients(layers, x, label)
                    g = [found[i][name] for i, name in names]
                    count += 1
                    torch._foreach_lerp_(m, g, 0.1)
                    torch._foreach_mul_(v, 0.999)
                    torch._foreach_addcmul_(v, g, g, 0.001)
                    below = torch._foreach_sqrt(v)
                    torch._foreach_div_(below, (1 - 0.999**count) ** 0.5)
                    torch._foreach_add_(below, 1e-8)
                    torch._foreach_addcdiv_(flat, m, below, -RATE / (1 - 0.9**count))
                    losses.append(loss)
        return layers, torch.stack(losses).mean(dim=0)

    def start() -> Any:
        return [{k: torch.from_numpy(v) for k, v in layer.items()} for layer in stacked(weights)]

    return start, train, lambda done: (done[1].tolist(), apart(done[0]))


def sklearn_joblib(weights: list[Weights], epochs: int) -> Any:
    """A process for each core."""
    from joblib import Parallel, delayed
    from sklearn.neural_network import MLPClassifier

    X, y = data()
    warnings.simplefilter("ignore")
    # Only what has been fitted can be given weights; `fit` then begins with new moments.
    net = MLPClassifier(
        SIZES[1:-1], alpha=0.0, batch_size=BATCH, learning_rate_init=RATE, shuffle=False, tol=0.0,
        n_iter_no_change=10**9, warm_start=True, max_iter=1, epsilon=1e-9, random_state=0,
    ).fit(X, y)  # fmt: skip
    net.max_iter = epochs
    workers = Parallel(n_jobs=len(machine.cpus()))

    def start() -> Any:
        from copy import deepcopy

        made = [deepcopy(net) for _ in weights]
        for one, layers in zip(made, weights, strict=True):
            one.coefs_ = [weight.T.copy() for weight, _ in layers]
            one.intercepts_ = [bias.copy() for _, bias in layers]
        return made

    def trained(made: Any) -> Trained:
        parts = [zip(one.coefs_, one.intercepts_, strict=True) for one in made]
        return [one.loss_ for one in made], [[(w.T, b) for w, b in part] for part in parts]

    return start, lambda made: workers(delayed(fit_quietly)(one, X, y) for one in made), trained


def fit_quietly(net: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """It warns that it could go on."""
    warnings.simplefilter("ignore")
    return net.fit(X, y)


SYSTEMS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "in-turn": ("minidl, in turn", "minidl", minidl_in_turn),
    "minidl": ("minidl", "minidl", minidl_fit_many),
    "jax": ("JAX", "jax", jax_vmap),
    "pytorch": ("PyTorch", "torch", torch_vmap),
    "scikit-learn": ("scikit-learn", "joblib", sklearn_joblib),
}


def measure(system: str, models: int, epochs: int, repeats: int) -> None:
    """Print what a system takes, and what its models have come to, as JSON."""
    start, train, trained = SYSTEMS[system][2](starts(models), epochs)
    before = time.perf_counter()
    done = train(start())
    first = time.perf_counter() - before
    best = np.inf
    for _ in range(repeats):
        made = start()
        time.sleep(PAUSE)
        before = time.perf_counter()
        done = train(made)
        best = min(best, time.perf_counter() - before)
    losses, weights = trained(done)
    X, y = data()
    rights = [accuracy(layers, X, y) for layers in weights]
    found = {"first": first, "seconds": best, "loss": np.mean(losses), "accuracy": np.mean(rights)}
    print(json.dumps(found))


def asked(system: str, models: int, epochs: int, repeats: int) -> dict[str, float]:
    """What `measure` prints in a process of its own."""
    command = [sys.executable, __file__, "--measure", system, "--models", str(models),
               "--epochs", str(epochs), "--repeats", str(repeats)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> int:
    """Measure all, and show a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--models", type=int, default=64)
    add("--epochs", type=int, default=25)
    add("--rounds", type=int, default=3, help="processes of each system")
    add("--repeats", type=int, default=5, help="trainings that a process times")
    add("--peers", default=",".join(SYSTEMS), help="systems beside minidl, such as jax,pytorch")
    add("--json", type=Path, metavar="FILE")
    add("--quick", action="store_true", help="four models, two epochs: to try it")
    add("--measure", choices=list(SYSTEMS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.models, given.epochs, given.rounds, given.repeats = 4, 2, 1, 1
    if given.measure:
        measure(given.measure, given.models, given.epochs, given.repeats)
        return 0
    for note in machine.environment_notes():
        print(note, file=sys.stderr)
    wanted = ["in-turn", "minidl", *given.peers.split(",")]
    names = [name for name in SYSTEMS if name in wanted and find_spec(SYSTEMS[name][1])]
    found: dict[str, dict[str, float]] = {}
    for _ in range(given.rounds):
        for name in names:
            new = asked(name, given.models, given.epochs, given.repeats)
            best = found.setdefault(name, new)
            best["seconds"] = min(best["seconds"], new["seconds"])
    cores, cpu = len(machine.cpus()), machine.describe()["cpu"]
    print(f"{given.models} models, {given.epochs} epochs, {cores} cores, {cpu}")
    print(f"{'':18}{'seconds':>9}{'of minidl':>11}{'loss':>11}{'accuracy':>10}{'the first':>11}")
    own, wrong = found["minidl"]["seconds"], []
    for name, one in found.items():
        label = SYSTEMS[name][0]
        print(
            f"{label:18}{one['seconds']:9.3f}{one['seconds'] / own:10.2f}x{one['loss']:11.6f}"
            f"{one['accuracy']:10.4f}{one['first']:10.2f}s"
        )
        truth = found["in-turn"]
        off = abs(one["loss"] / truth["loss"] - 1), abs(one["accuracy"] - truth["accuracy"])
        if not (off[0] <= TOLERANCES["loss"] and off[1] <= TOLERANCES["accuracy"]):
            wrong.append(f"{label} did not train as minidl did: {one}")
    speedup = found["in-turn"]["seconds"] / own
    print(f"fit_many: {speedup:.2f} times one thread, {speedup / cores:.3f} of {cores} cores")
    if given.json is not None:
        given.json.write_text(json.dumps({"cores": cores, "systems": found}, indent=1) + "\n")
    print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

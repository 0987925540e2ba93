"""From process start to a trained digits model, and the cost of imports and of lowering.

python benchmarks/startup.py [REPEATS]

minidl, PyTorch and JAX train the network of `minidl train digits` with its settings until the test
accuracy, measured after every epoch, is at least 97.5 %. Each runs as its users would write it, in
processes of its own, in turns, with a seed for each turn. The clock runs from before the process
is started until it has ended. The digits are read from an .npz file, which is written beforehand.
What is not installed is left out, by name.
"""

import sys
from itertools import pairwise

import numpy as np

WIDTHS = (64, 256, 64, 10)
BATCH_SIZE = 64
LR = 1e-3
GOAL = 0.975
MOST_EPOCHS = 100


def load(path):
    """Rows to train on and to test on: standardised pixels and labels."""
    data = np.load(path)
    return data["X"], data["y"], data["X_test"], data["y_test"]


def train_minidl(path, seed):
    """Epochs that minidl needs, and the test accuracy."""
    import minidl

    class Enough(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            self.trainer.stop_training = logs["val_accuracy"] >= GOAL

    X, y, X_test, y_test = load(path)
    layers = []
    for inputs, outputs in pairwise(WIDTHS[:-1]):
        layers += [minidl.Linear(inputs, outputs), minidl.BatchNorm1d(outputs), minidl.ReLU()]
    model = minidl.Sequential(*layers, minidl.Linear(*WIDTHS[-2:]), seed=seed)
    trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=LR))
    history = trainer.fit(
        X, y, epochs=MOST_EPOCHS, batch_size=BATCH_SIZE, seed=seed,
        validation_data=(X_test, y_test), callbacks=[Enough()],
    )  # fmt: skip
    return len(history), history.history["val_accuracy"][-1]


def train_torch(path, seed):
    """Epochs that PyTorch needs, and the test accuracy."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    X, y, X_test, y_test = map(torch.from_numpy, load(path))
    layers = []
    for inputs, outputs in pairwise(WIDTHS[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(*WIDTHS[-2:]))
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for epochs in range(1, MOST_EPOCHS + 1):  # noqa: B007
        model.train()
        for rows in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(model(X[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(X_test).argmax(1) == y_test).float().mean())
        if accuracy >= GOAL:
            break
    return epochs, accuracy


def train_jax(path, seed):
    """Epochs that JAX needs, and the test accuracy; an epoch is one compiled call, whole batches.

    Initial values and Adam are PyTorch's.
    """
    import jax
    import jax.numpy as jnp

    X, y, X_test, y_test = load(path)
    rng = np.random.default_rng(seed)

    def uniform(inputs, *shape):
        return rng.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)

    weights = [{"W": uniform(i, i, o), "b": uniform(i, o)} for i, o in pairwise(WIDTHS)]
    for layer, width in zip(weights, WIDTHS[1:-1], strict=False):
        layer |= {"gamma": np.ones(width, np.float32), "beta": np.zeros(width, np.float32)}
    running = [(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in WIDTHS[1:-1]]
    moments = (jax.tree.map(np.zeros_like, weights), jax.tree.map(np.zeros_like, weights))

    def forward(weights, running, x, training):
        new = []
        for layer, (mean, var) in zip(weights, running, strict=False):
            x = x @ layer["W"] + layer["b"]
            if training:
                n, old_mean, old_var = len(x), mean, var
                mean, var = x.mean(0), x.var(0)
                new.append((0.9 * old_mean + 0.1 * mean, 0.9 * old_var + 0.1 * var * n / (n - 1)))
            x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * layer["gamma"] + layer["beta"]
            x = jax.nn.relu(x)
        return x @ weights[-1]["W"] + weights[-1]["b"], new

    def loss(weights, running, x, y):
        logits, running = forward(weights, running, x, True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), running

    def step(state, batch):
        weights, running, (m, v), t = state
        gradients, running = jax.grad(loss, has_aux=True)(weights, running, *batch)
        t += 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        weights = jax.tree.map(
            lambda w, m, v: (
                w - LR * m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            ),
            weights, m, v,
        )  # fmt: skip
        return (weights, running, (m, v), t), None

    @jax.jit
    def epoch_and_test(state, order):
        state, _ = jax.lax.scan(step, state, (jnp.asarray(X)[order], jnp.asarray(y)[order]))
        logits, _ = forward(state[0], state[1], X_test, False)
        return state, (logits.argmax(1) == y_test).mean()

    state = weights, running, moments, 0.0
    batches = len(X) // BATCH_SIZE
    for epochs in range(1, MOST_EPOCHS + 1):  # noqa: B007
        order = rng.permutation(len(X))[: batches * BATCH_SIZE].reshape(batches, BATCH_SIZE)
        state, accuracy = epoch_and_test(state, order)
        if accuracy >= GOAL:
            break
    return epochs, float(accuracy)


SYSTEMS = {"minidl": train_minidl, "torch": train_torch, "jax": train_jax}
IMPORTS = ("minidl", "torch", "jax", "sklearn.neural_network")
IMPORT_CODE = (
    "import time, numpy; start = time.perf_counter(); import {0}; "
    "print(time.perf_counter() - start)"
)


# Milliseconds that it takes to lower 784-128-64-10 with BatchNorm, loss and Adam: first, and best.
LOWERING_CODE = """
import time
import numpy as np, minidl
from minidl.lowering import BatchProgram
X, y, times = np.zeros((256, 784), np.float32), np.arange(256) % 10, []
for _ in range(50):
    layers = []
    for a, b in ((784, 128), (128, 64)):
        layers += [minidl.Linear(a, b), minidl.BatchNorm1d(b), minidl.ReLU()]
    model = minidl.Sequential(*layers, minidl.Linear(64, 10))
    loss, updates = minidl.CrossEntropyLoss().bound(y), minidl.Trainer(model)._updates()
    start = time.perf_counter()
    BatchProgram(model, 784, 128, loss=loss, updates=updates)
    times.append(1e3 * (time.perf_counter() - start))
print(times[0], min(times))
"""


def run(command):
    """Seconds from before the process is started until it has ended, and what it printed."""
    import subprocess
    import time

    command = [sys.executable, "-P", *command]  # without the folder that this is started in
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return seconds, output.split()


def import_seconds(module):
    """Seconds of an import after NumPy's, in a process of its own."""
    return float(run(["-c", IMPORT_CODE.format(module)])[1][0])


def write_digits(path):
    """scikit-learn's digits, a fifth held out, standardised with one mean and one scale."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        digits.data, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    mean, scale = X.mean(axis=0), X.std()
    X, X_test = (((a - mean) / scale).astype(np.float32) for a in (X, X_test))
    np.savez(path, X=X, y=y.astype(np.int64), X_test=X_test, y_test=y_test.astype(np.int64))


def in_turns(job, names, repeats):
    """What ``job(name, turn)`` returns, by name; turn -1 warms the file cache and is dropped."""
    results = {name: [] for name in names}
    for turn in range(-1, repeats):
        for name in names:
            result = job(name, turn)
            if turn >= 0:
                results[name].append(result)
    return results


def installed(names):
    """Those of the modules that can be imported; the others are named."""
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name.partition(".")[0]) is None]
    if missing:
        print("not installed:", *missing)
    return [name for name in names if name not in missing]


def main(repeats):
    """Run all and print two tables."""
    import tempfile
    from pathlib import Path
    from statistics import median

    systems, modules = installed(SYSTEMS), installed(IMPORTS)
    print(f"process start to {GOAL:.1%} on the digits, {repeats} turns")
    print(f"{'':24}{'best s':>9}{'median s':>10}{'epochs':>8}  accuracy")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "digits.npz")
        write_digits(path)

        def trained(name, turn):
            seconds, (epochs, accuracy) = run([__file__, "train", name, path, str(max(turn, 0))])
            return seconds, int(epochs), float(accuracy)

        for name, results in in_turns(trained, systems, repeats).items():
            seconds, epochs, accuracies = zip(*results, strict=True)
            print(
                f"{name:24}{min(seconds):9.3f}{median(seconds):10.3f}"
                f"{f'{min(epochs)}-{max(epochs)}':>8}  {min(accuracies):.4f}-{max(accuracies):.4f}"
            )
    starts = in_turns(lambda code, _: run(["-c", code])[0], ["pass", "import numpy"], repeats)
    for code, seconds in starts.items():
        print(f"{f'python -c {code!r}':24}{min(seconds):9.3f}{median(seconds):10.3f}")

    print(f"\nimport over numpy, {repeats} turns")
    print(f"{'':24}{'best ms':>9}{'median ms':>10}")
    imports = in_turns(lambda module, _: 1e3 * import_seconds(module), modules, repeats)
    for module, times in imports.items():
        print(f"{module:24}{min(times):9.1f}{median(times):10.1f}")

    pairs = [tuple(map(float, run(["-c", LOWERING_CODE])[1])) for _ in range(repeats)]
    first, best = zip(*pairs, strict=True)
    print(f"\nlowering 784-128-64-10 with BatchNorm, loss and Adam, {repeats} processes")
    print(f"first in a process {median(first):.2f} ms, best of 50 {min(best):.2f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        print(*SYSTEMS[sys.argv[2]](sys.argv[3], int(sys.argv[4])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)

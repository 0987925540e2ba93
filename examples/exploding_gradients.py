"""Exploding gradients: weights twice too large and a high rate, and what keeps a training alive.

Twelve layers of ReLU whose weights have twice the spread of Kaiming's: each layer doubles what goes
through it, and each doubles the gradient on its way back. Training ends with
`minidl.NonFiniteError` after a few steps; `minidl.GradientMonitor` says why before it comes to
that. Clipping the norm of the gradient keeps it alive, BatchNorm takes the scale of the weights out
of it; docs/theory.md derives all of this. Needs scikit-learn and matplotlib:

    python examples/exploding_gradients.py [FOLDER]

The figure goes into the folder, by default a new temporary one.
"""

import copy
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import minidl

LAYERS, WIDTH, EPOCHS, RATE = 12, 64, 40, 0.1


def twice_kaiming(shape, rng):
    """Twice what keeps the scale from layer to layer."""
    return 2 * minidl.initializers.kaiming_normal(shape, rng)


def network(batch_norm=False, init=twice_kaiming):
    """Linear layers, each but the last with ReLU behind it."""
    layers = []
    for i in range(LAYERS - 1):
        layers.append(minidl.Linear(64 if i == 0 else WIDTH, WIDTH, weight_init=init))
        layers += [minidl.BatchNorm1d(WIDTH)] if batch_norm else []
        layers.append(minidl.ReLU())
    return minidl.Sequential(*layers, minidl.Linear(WIDTH, 10), seed=0)


# Name, network, arguments of the trainer, and how it is drawn: colour, marker, line.
WAYS = [
    ("twice Kaiming", network, {}, ("#D55E00", "v", "--")),
    ("... with clipping to 1", network, {"clip_grad_norm": 1.0}, ("#CC79A7", "x", ":")),
    ("... with BatchNorm", lambda: network(True), {}, ("#009E73", "s", "-")),
    ("Kaiming, a tenth of the rate", lambda: network(init="kaiming_normal"),
     {"optimizer": minidl.SGD(lr=RATE / 10)}, ("#000000", "o", "-")),
]  # fmt: skip


class Losses(minidl.Callback):
    """Keeps the loss of every batch."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, step, logs):
        """Note it."""
        self.losses.append(logs["loss"])


def growth_rate(model, X):
    """How the largest singular value grows a layer; BatchNorm with the statistics of the data."""
    model = copy.deepcopy(model)
    minidl.Trainer(model).recalibrate_batchnorm(X)
    return minidl.jacobian_spectrum(model, X[:8]).growth_rate


def train(model, X, y, **options):
    """Losses, the error if there was one, and what the monitor had to say."""
    watch, monitor = Losses(), minidl.GradientMonitor(every=1)
    trainer = minidl.Trainer(model, **{"optimizer": minidl.SGD(lr=RATE), **options})
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(X, y, epochs=EPOCHS, batch_size=32, seed=0, callbacks=[watch, monitor])
        except minidl.NonFiniteError as raised:
            error = raised
    return watch.losses, error, [str(warning.message) for warning in caught]


def main():
    """Look at all, train all, draw."""
    X, y = load_digits(return_X_y=True)
    X = (X - 8) / 8
    X, X_test, y, y_test = train_test_split(X, y, test_size=360, stratify=y, random_state=0)
    print(f"{LAYERS} layers, {WIDTH} wide, {len(X)} digits to train on, {len(X_test)} to test, SGD "
          f"with a rate of {RATE}\n")  # fmt: skip
    outputs, gradients, curves, accuracies = {}, {}, {}, {}
    for name, make, options, _ in WAYS:
        model = make()
        report = minidl.diagnose(model, X, y)
        outputs[name] = [layer.std for layer in report.layers if layer.weighted]
        gradients[name] = [layer.gradient for layer in report.layers if layer.weighted]
        rate = growth_rate(model, X)
        losses, error, said = train(model, X, y, **options)
        curves[name] = losses
        accuracies[name] = None if error else (model.predict(X_test).argmax(1) == y_test).mean()
        print(f"{name}: gradient {report.factor:.2f}x per layer towards the input, Jacobians "
              f"{rate:.2f}x;")  # fmt: skip
        for text in said:
            print(f"  warning at {text}")
        if error:
            print(f"  NonFiniteError: {error}")
        else:
            print(f"  loss {losses[0]:.3g} at first, {losses[-1]:.3g} at last; test accuracy "
                  f"{accuracies[name]:.3f}")  # fmt: skip

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minidl-"))
    path = folder / "exploding_gradients.png"
    draw(outputs, gradients, curves, accuracies).savefig(path, dpi=100)
    print(f"\nThe figure: {path}")

    first, *others = accuracies.values()
    assert first is None, "large weights and rates end a training"
    assert min(others) > 0.75, "all else works"


def averages(losses):
    """Steps, and the mean losses up to each since the one before; the first steps one by one."""
    ends = np.unique(np.geomspace(1, len(losses), 24).astype(int))
    parts = np.split(np.asarray(losses), ends[:-1])
    return ends, [part.mean() for part in parts]


def draw(outputs, gradients, curves, accuracies):
    """Outputs and gradients before training, and the loss step by step."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for name, _, _, (colour, marker, line) in WAYS:
        accuracy = accuracies[name]
        result = "NonFiniteError" if accuracy is None else f"test accuracy {accuracy:.2f}"
        style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5}
        layers = np.arange(1, LAYERS + 1)
        left.plot(layers, outputs[name], label=f"{name}: {result}", **style)
        middle.plot(layers, gradients[name], **style)
        steps, losses = averages(curves[name])
        right.plot(steps, losses, linewidth=1.6, **style)
        if accuracy is None:
            right.annotate("NaN", (steps[-1], losses[-1]), xytext=(12, 0), color=colour,
                           textcoords="offset points", weight="bold", va="center")  # fmt: skip
    left.set_title("Forward: what each layer gives")
    left.set_ylabel("standard deviation of the layer's output")
    middle.set_title("Backward: what reaches each layer")
    middle.set_ylabel("norm of the gradient of the layer's output")
    for axes in (left, middle):
        axes.set_xlabel("layer, from the input (before training)")
    right.set_title("Training: what comes of it")
    right.set_xlabel("step")
    right.set_ylabel("loss, averaged over ever more steps")
    right.set_xscale("log")
    for axes in (left, middle, right):
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False)  # fmt: skip
    return figure


if __name__ == "__main__":
    main()

"""Vanishing gradients: a network of 30 layers on handwritten digits, and what makes it trainable.

The gradient at a layer is the gradient at the output times the Jacobians of all layers between.
With sigmoids, whose derivative is 1/4 at most, and small weights each of them shrinks it, and the
first layers learn nothing. The same network is set up in six ways; for each the program shows the
gradient of each layer before training (`minidl.diagnose`), how the largest singular value of the
product of Jacobians grows from layer to layer (`minidl.jacobian_spectrum`), and the accuracy after
training. docs/theory.md derives all of this. Needs scikit-learn and matplotlib:

    python examples/vanishing_gradients.py [FOLDER]

The figure goes into the folder, by default a new temporary one.
"""

import copy
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import minidl

LAYERS, WIDTH, EPOCHS = 30, 64, 60


def naive(shape, rng):
    """Small numbers, whatever the width of the layer: N(0, 0.1^2)."""
    return rng.normal(0, 0.1, shape)


def small_kaiming(shape, rng):
    """A tenth of Kaiming's: a residual block that begins as little more than the identity."""
    return 0.1 * minidl.initializers.kaiming_normal(shape, rng)


def plain(activation, init, batch_norm=False):
    """Linear layers, each but the last with an activation behind it."""
    layers = []
    for i in range(LAYERS - 1):
        layers.append(
            minidl.Linear(64 if i == 0 else WIDTH, WIDTH, weight_init=init, bias_init="zeros")
        )
        layers += [minidl.BatchNorm1d(WIDTH)] if batch_norm else []
        layers.append(activation())
    return minidl.Sequential(*layers, minidl.Linear(WIDTH, 10, bias_init="zeros"), seed=0)


def residual():
    """A layer, blocks of two layers that add to what they are given, and a layer."""

    def linear(init):
        return minidl.Linear(WIDTH, WIDTH, weight_init=init, bias_init="zeros")

    blocks = [
        minidl.Residual(
            minidl.Sequential(
                minidl.ReLU(), linear("kaiming_normal"), minidl.ReLU(), linear(small_kaiming)
            )
        )
        for _ in range(LAYERS // 2 - 1)
    ]
    return minidl.Sequential(
        minidl.Linear(64, WIDTH, weight_init="kaiming_normal", bias_init="zeros"), *blocks,
        minidl.ReLU(), minidl.Linear(WIDTH, 10, bias_init="zeros"), seed=0,
    )  # fmt: skip


# Name, network, arguments of the trainer, and how it is drawn: colour, marker, line.
WAYS = [
    ("sigmoid, N(0, 0.1²)", lambda: plain(minidl.Sigmoid, naive), {}, ("#D55E00", "v", "--")),
    ("tanh, Xavier", lambda: plain(minidl.Tanh, "xavier_normal"), {}, ("#E69F00", "^", "-")),
    ("ReLU, Kaiming", lambda: plain(minidl.ReLU, "kaiming_normal"), {}, ("#000000", "o", "-")),
    ("... with BatchNorm", lambda: plain(minidl.ReLU, "kaiming_normal", True), {},
     ("#009E73", "s", "-")),
    ("... with residual blocks", residual, {}, ("#0072B2", "D", "-")),
    ("... with clipping to 1", lambda: plain(minidl.ReLU, "kaiming_normal"),
     {"clip_grad_norm": 1.0}, ("#CC79A7", "x", ":")),
]  # fmt: skip


def growth_rate(model, X):
    """How the largest singular value grows a layer; BatchNorm with the statistics of the data."""
    model = copy.deepcopy(model)
    minidl.Trainer(model).recalibrate_batchnorm(X)
    return minidl.jacobian_spectrum(model, X[:8]).growth_rate


def main():
    """Look at all, train all, draw."""
    X, y = load_digits(return_X_y=True)
    X = (X - 8) / 8
    X, X_test, y, y_test = train_test_split(X, y, test_size=360, stratify=y, random_state=0)
    print(f"{LAYERS} layers, {WIDTH} wide, {len(X)} digits to train on, {len(X_test)} to test, "
          f"{EPOCHS} epochs of SGD with momentum\n")  # fmt: skip
    gradients, curves, verdicts, rates = {}, {}, {}, {}
    for name, make, options, _ in WAYS:
        model = make()
        report = minidl.diagnose(model, X, y)
        rates[name] = report.factor, growth_rate(model, X)
        trainer = minidl.Trainer(
            model,
            optimizer=minidl.SGD(lr=0.01, momentum=0.9),
            scheduler=minidl.CosineAnnealingLR(T_max=EPOCHS),
            **options,
        )
        history = trainer.fit(
            X, y, epochs=EPOCHS, batch_size=64, seed=0, validation_data=(X_test, y_test)
        )
        gradients[name] = [layer.gradient for layer in report.layers if layer.weighted]
        curves[name] = history.history["val_accuracy"]
        verdicts[name] = report.verdict
        assert len(gradients[name]) == LAYERS

    print("norm of the gradient with respect to each layer's output, before training:")
    print("layer" + "".join(f"{name.removeprefix('... with '):>20}" for name in gradients))
    for i in range(LAYERS):
        print(f"{i + 1:5}" + "".join(f"{values[i]:20.1e}" for values in gradients.values()))

    print(
        "\nper layer, the change of the gradient towards the input, and the growth of the largest "
        "singular\nvalue of the Jacobians' product; the accuracy on the test digits after training:"
    )
    for name, (factor, rate) in rates.items():
        print(f"{name:26}gradient {factor:5.2f}x   Jacobians {rate:5.2f}x   accuracy "
              f"{curves[name][-1]:.3f}")  # fmt: skip

    print("\nWhat minidl.diagnose says of the first, and of ReLU with Kaiming initialisation:")
    for name in (WAYS[0][0], WAYS[2][0]):
        print(f"- {name}: {verdicts[name]}")

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minidl-"))
    path = folder / "vanishing_gradients.png"
    draw(gradients, curves).savefig(path, dpi=120)
    print(f"\nThe figure: {path}")

    first, *others = (curve[-1] for curve in curves.values())
    assert first < 0.2 < 0.8 < min(others), "sigmoids fail, all else works"
    assert "vanishing" not in verdicts[WAYS[2][0]]


def draw(gradients, curves):
    """Gradients before training, and accuracy while training."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, _, _, (colour, marker, line) in WAYS:
        style = {"color": colour, "marker": marker, "linestyle": line, "label": name,
                 "markersize": 5, "linewidth": 1.6, "markevery": 4}  # fmt: skip
        left.plot(np.arange(1, LAYERS + 1), gradients[name], **style)
        right.plot(np.arange(1, EPOCHS + 1), curves[name], **style)
    left.set_yscale("log")
    left.set_xlabel("layer, from the input")
    left.set_ylabel("norm of the gradient of the layer's output")
    left.set_title("Before training: what reaches each layer")
    right.axhline(0.1, color="#808080", linewidth=1)
    right.text(EPOCHS, 0.11, "guessing", color="#606060", ha="right", va="bottom")
    right.set_ylim(0, 1)
    right.set_xlabel("epoch")
    right.set_ylabel("test accuracy")
    right.set_title("Training: what comes of it")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


if __name__ == "__main__":
    main()

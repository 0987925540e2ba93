"""BatchNorm on handwritten digits: what it does, and where it goes wrong.

Five questions, each with numbers and a panel of one figure: how far the inputs of the activations
spread, layer by layer; which learning rates still train; how good predictions are after few and
many updates of the running averages; which batch sizes suit; and whether it belongs before or after
the activation. The formulas are derived in docs/theory.md, section 4. Needs scikit-learn and
matplotlib:

    python examples/batchnorm.py [FOLDER]

The figure goes into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import minidl

LAYERS, WIDTH, BATCH = 6, 64, 32
RATES = np.logspace(-3, 1.5, 10)
UPDATES = (1, 2, 4, 8, 16, 32, 64, 128)
BATCHES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEPS = 200  # of each training in which batch sizes are compared
SEEDS = 5
PLAIN, WITH, THIRD, FOURTH = "#D55E00", "#0072B2", "#000000", "#CC79A7"  # all eyes see these apart


def network(place=None, seed=0):
    """Six hidden layers of ReLU; BatchNorm before or after each activation, or nowhere."""
    layers, width = [], 64
    for _ in range(LAYERS):
        layers.append(minidl.Linear(width, WIDTH, weight_init="kaiming_normal"))
        layers += [minidl.BatchNorm1d(WIDTH)] if place == "before" else []
        layers.append(minidl.ReLU())
        layers += [minidl.BatchNorm1d(WIDTH)] if place == "after" else []
        width = WIDTH
    return minidl.Sequential(*layers, minidl.Linear(WIDTH, 10), seed=seed)


def spread(model, X):
    """The 5th, 50th and 95th percentile of what each activation reads."""
    found, x = [], X.astype(np.float32)
    for layer in model.eval():
        if isinstance(layer, minidl.ReLU):
            found.append(np.percentile(x, (5, 50, 95)))
        x = layer(x)
    return np.array(found)


def trained(place, lr, data, epochs=8, seed=0):
    """Train with SGD; returns the model and its accuracy on test rows, a tenth if it diverged."""
    X, y, X_test, y_test = data
    trainer = minidl.Trainer(network(place, seed), optimizer=minidl.SGD(lr=lr, momentum=0.9))
    try:
        trainer.fit(X, y, epochs=epochs, batch_size=BATCH, seed=seed, verbose=0)
    except minidl.NonFiniteError:
        return trainer.model, 0.1
    return trainer.model, trainer.evaluate(X_test, y_test)["accuracy"]


def after_updates(data):
    """Accuracy with running averages, with the batch's own statistics, and after recalibration."""
    X, y, X_test, y_test = data
    trainer = minidl.Trainer(network("before"), optimizer=minidl.Adam(lr=3e-3))
    rng, rows = np.random.default_rng(0), []
    for step in range(1, UPDATES[-1] + 1):
        batch = rng.choice(len(X), BATCH, replace=False)
        trainer.train_step(X[batch], y[batch])
        if step in UPDATES:
            copy = minidl.Sequential(*network("before").train())
            copy.load_state_dict(trainer.model.state_dict())
            own = (copy(X_test.astype(np.float32)).argmax(axis=1) == y_test).mean()
            running = trainer.evaluate(X_test, y_test)["accuracy"]
            again = minidl.Trainer(network("before"))
            again.model.load_state_dict(trainer.model.state_dict())
            again.recalibrate_batchnorm(X)
            rows.append((running, own, again.evaluate(X_test, y_test)["accuracy"]))
    return np.array(rows)


def by_batch_size(place, size, data, seed):
    """Accuracy after the same number of steps, whatever the size of the batch."""
    X, y, X_test, y_test = data
    trainer = minidl.Trainer(network(place, seed), optimizer=minidl.Adam(lr=1e-3))
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        batch = rng.choice(len(X), size, replace=False)
        trainer.train_step(X[batch], y[batch])
    return trainer.evaluate(X_test, y_test)["accuracy"]


def draw(panels):
    """One figure of all panels."""
    figure = Figure((12.5, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).ravel()
    for panel, ax in zip(panels, axes, strict=False):
        panel(ax)
    axes[-1].axis("off")
    axes[-1].text(
        0, 0.95, "Digits of 8 x 8 pixels; six hidden layers\nof 64 ReLU units. Orange: without\n"
        "BatchNorm; blue: with it, between\nthe Linear and the ReLU.",
        va="top", fontsize=11,
    )  # fmt: skip
    return figure


def panel(ax, title, xlabel, ylabel):
    """What all panels have."""
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8)


def main():
    """Answer the questions one by one."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=360, stratify=y, random_state=0)
    data = X, y, X_test, y_test
    names = {None: "without", "before": "BatchNorm"}

    print("1. What the activations read, after training: 5th to 95th percentile, layer by layer")
    spreads = {place: spread(trained(place, 0.05, data)[0], X_test) for place in names}
    for place, found in spreads.items():
        widths = found[:, 2] - found[:, 0]
        print(f"   {names[place]:10}", *(f"{w:7.2f}" for w in widths))

    print(f"\n2. Accuracy after 8 epochs of SGD at learning rates {RATES[0]:g} to {RATES[-1]:.0f}")
    accuracy = {p: [trained(p, lr, data)[1] for lr in RATES] for p in names}
    good = {p: RATES[np.array(found) > 0.9] for p, found in accuracy.items()}
    for place, found in accuracy.items():
        print(f"   {names[place]:10}", *(f"{a:6.3f}" for a in found))
    print("   above 0.9: " + "; ".join(
        f"{names[p]} from {r.min():.3g} to {r.max():.3g}" for p, r in good.items()))  # fmt: skip

    print("\n3. Accuracy of predictions after so many updates of the running averages")
    updates = after_updates(data)
    print("   updates                        ", *(f"{n:6}" for n in UPDATES))
    for i, name in enumerate(("running averages", "statistics of the test rows", "recalibrated")):
        print(f"   {name:30} ", *(f"{a:6.3f}" for a in updates[:, i]))

    print(f"\n4. Accuracy after {STEPS} steps of Adam, by the size of the batch (mean of 2 seeds)")
    sizes = {
        p: np.mean([[by_batch_size(p, n, data, s) for n in BATCHES] for s in range(2)], axis=0)
        for p in names
    }
    print("   batch     ", *(f"{n:6}" for n in BATCHES))
    for place, found in sizes.items():
        print(f"   {names[place]:10}", *(f"{a:6.3f}" for a in found))

    print(f"\n5. Before or after the activation: accuracy after 3 epochs, {SEEDS} seeds")
    places = {
        place: [trained(place, 0.02, data, 3, seed)[1] for seed in range(SEEDS)]
        for place in (None, "before", "after")
    }
    for place, found in places.items():
        print(f"   {place or 'without':10}{np.mean(found):.3f} ({min(found):.3f} to "
              f"{max(found):.3f})")  # fmt: skip

    def spreads_panel(ax):
        layers = np.arange(1, LAYERS + 1)
        for place, color in ((None, PLAIN), ("before", WITH)):
            low, middle, high = spreads[place].T
            ax.fill_between(layers, low, high, color=color, alpha=0.25)
            ax.plot(layers, middle, color=color, marker="o", label=names[place])
        panel(ax, "1. What the activations read", "layer", "5th to 95th percentile, median")

    def rates_panel(ax):
        for place, color, marker in ((None, PLAIN, "s"), ("before", WITH, "o")):
            ax.semilogx(RATES, accuracy[place], color=color, marker=marker, label=names[place])
        panel(ax, "2. Learning rates that train", "learning rate of SGD", "test accuracy")

    def updates_panel(ax):
        kinds = ("running averages", "statistics of the test rows", "recalibrated")
        for i, (name, color, line) in enumerate(
            zip(kinds, (WITH, THIRD, FOURTH), ("o-", "^--", "s:"), strict=True)
        ):
            ax.semilogx(UPDATES, updates[:, i], line, color=color, base=2, label=name)
        ax.set_xticks(UPDATES, UPDATES)
        panel(ax, "3. Predictions early in training", "updates of the averages", "test accuracy")

    def sizes_panel(ax):
        for place, color, marker in ((None, PLAIN, "s"), ("before", WITH, "o")):
            ax.semilogx(BATCHES, sizes[place], color=color, marker=marker, base=2,
                        label=names[place])  # fmt: skip
        ax.set_xticks(BATCHES[::2], BATCHES[::2])
        panel(ax, f"4. After {STEPS} steps, by batch size", "rows of a batch", "test accuracy")

    def places_panel(ax):
        kinds = ((None, PLAIN), ("before", WITH), ("after", THIRD))
        for i, (place, color) in enumerate(kinds):
            ax.plot([i] * SEEDS, places[place], "o", color=color, alpha=0.6)
            ax.plot([i - 0.2, i + 0.2], [np.mean(places[place])] * 2, color=color)
        ax.set_xticks(range(3), ["without", "before\nthe ReLU", "after\nthe ReLU"])
        panel(ax, "5. Where it stands (3 epochs)", "", "test accuracy: seeds and mean")

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minidl-"))
    path = folder / "batchnorm.png"
    panels = [spreads_panel, rates_panel, updates_panel, sizes_panel, places_panel]
    draw(panels).savefig(path, dpi=90)
    print(f"\nThe figure: {path}")

    assert len(good["before"]) > len(good[None]), "more rates train with BatchNorm"
    assert updates[0, 1] > updates[0, 0], "one update leaves the averages far from the data"
    assert sizes["before"][0] < sizes["before"][4], "batches of two are too small"
    assert path.stat().st_size > 10_000


if __name__ == "__main__":
    main()

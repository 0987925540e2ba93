"""Memory: what training takes with depth and batch, what prediction takes, and what can be done.

Backward needs what forward has made, so training keeps the activations of all layers: memory grows
with layers times rows. Prediction lets a layer's go when the next has read it. Recomputing
activations (`checkpoint="sqrt"`) brings layers down to about twice their root, for a third more
time; going through a batch in parts (`micro_batch_size`) keeps only those of a part. Lines are what
`Trainer.memory` says before anything is made, marks what the process has grown by, each measured in
a process of its own. docs/theory.md derives all of this. Needs matplotlib, and Linux to measure:

    python examples/memory.py [FOLDER]

The figure goes into the folder, by default a new temporary one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import minidl

WIDTH, PARTS = 128, 256
DEPTHS, ROWS = (4, 8, 16, 32, 64), 4096
BATCHES, DEPTH = (512, 1024, 2048, 4096, 8192), 16
MEASURED = 2  # every second point

# Name, arguments of the trainer (None: prediction), and how it is drawn: colour, marker, line.
WAYS = [
    ("training", {}, ("#D55E00", "v", "-")),
    ('training, checkpoint="sqrt"', {"checkpoint": "sqrt"}, ("#0072B2", "o", "--")),
    (f"training, micro_batch_size={PARTS}", {"micro_batch_size": PARTS}, ("#009E73", "s", "-.")),
    ("prediction", None, ("#000000", "D", ":")),
]


def network(depth):
    """Layers of one width."""
    layers = [f for _ in range(depth) for f in (minidl.Linear(WIDTH, WIDTH), minidl.ReLU())]
    return minidl.Sequential(*layers, minidl.Linear(WIDTH, 10), seed=0)


def predicted(options, depth, rows):
    """Bytes beside the parameters and the data, before anything is made."""
    report = minidl.Trainer(network(depth), **(options or {})).memory(rows)
    if options is None:
        return report.prediction["workspace"] + 4 * 10 * rows  # and the predictions
    return sum(report.training.values()) - report.training["parameters"]


def resident():
    """Bytes of memory that this process has, by the system."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def measure(options, depth, rows):
    """Bytes that a process grows by."""
    model = network(depth)
    X = np.random.default_rng(0).standard_normal((WIDTH, rows), np.float32).T
    y = np.arange(rows) % 10
    small = minidl.Trainer(minidl.Sequential(minidl.Linear(WIDTH, 10)))
    small.fit(X[:99], y[:99], verbose=0)  # what is loaded when it is first used
    model.predict(X[:1])
    trainer = minidl.Trainer(model, **(options or {}))
    before = resident()
    if options is None:
        kept = model.predict(X, batch_size=rows)
    else:
        kept = trainer.fit(X, y, batch_size=rows, shuffle=False, verbose=0)
    grown = resident() - before
    del kept
    return grown


def measured(*case):
    """The same, in a process of its own; None where the system does not say."""
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, __file__, "--measure", json.dumps(case)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main():
    """Ask, measure, draw."""
    lines = {}
    for name, options, _ in WAYS:
        for axis, cases in (
            ("layers", [(depth, ROWS) for depth in DEPTHS]),
            ("rows", [(DEPTH, rows) for rows in BATCHES]),
        ):
            said = [predicted(options, *case) for case in cases]
            grown = [measured(options, *case) for case in cases[::MEASURED]]
            lines[name, axis] = said, grown

    print(
        f"layers of {WIDTH} columns in float32; megabytes beside parameters and data, as "
        "predicted (and measured)"
    )
    for axis, places, fixed in (
        ("layers", DEPTHS, f"batches of {ROWS} rows"), ("rows", BATCHES, f"{DEPTH} layers")
    ):  # fmt: skip
        print(f"\n{axis + ', ' + fixed:34}" + "".join(f"{place:>15}" for place in places))
        for name, _, _ in WAYS:
            said, grown = lines[name, axis]
            marks = iter(grown)
            cells = [
                f"{size / 1e6:.1f}" + (_shown(next(marks)) if i % MEASURED == 0 else "")
                for i, size in enumerate(said)
            ]
            print(f"{name:34}" + "".join(f"{cell:>15}" for cell in cells))

    print()
    print(minidl.Trainer(network(3), checkpoint=2).memory(ROWS))

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minidl-"))
    path = folder / "memory.png"
    draw(lines).savefig(path, dpi=120)
    print(f"\nThe figure: {path}")

    for said, grown in lines.values():
        for size, found in zip(said[::MEASURED], grown, strict=True):
            assert found is None or abs(found - size) < 0.05 * size + 2e6, (size, found)


def _shown(size):
    return "" if size is None else f" ({size / 1e6:.1f})"


def draw(lines):
    """Memory against depth, and against the rows of a batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not where memory is measured
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (axis, places, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("layers", DEPTHS, f"Batches of {ROWS} rows"),
         ("rows", BATCHES, f"{DEPTH} layers")), strict=True,
    ):  # fmt: skip
        for name, _, (colour, marker, line) in WAYS:
            said, grown = lines[name, axis]
            axes.plot(places, np.array(said) / 1e6, color=colour, linestyle=line, linewidth=1.6,
                      label=name)  # fmt: skip
            if None not in grown:
                axes.plot(places[::MEASURED], np.array(grown) / 1e6, color=colour, marker=marker,
                          linestyle="none", markersize=7, fillstyle="none")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(places, map(str, places))
        axes.set_xlabel(f"layers of {WIDTH} columns" if axis == "layers" else "rows of a batch")
        axes.set_title(title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("memory beside parameters and data, MB")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False,
                  title="lines: predicted by Trainer.memory; marks: measured")  # fmt: skip
    return figure


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measure(*json.loads(sys.argv[2])))
    else:
        main()

"""The table and the picture of `compare.py`'s results.

    python benchmarks/report.py results.json --picture results.svg

Prints the table in Markdown. Every system counts with its better number of threads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

Results = dict[str, Any]

COLOURS = {
    "minidl": "#c1272d",
    "numpy": "#4477aa",
    "pytorch": "#e08214",
    "jax": "#5aa469",
    "scikit-learn": "#8e6bbf",
}
INK, GREY = "#222222", "#8a8a8a"


def digits(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figures(case: Results, system: str, show: str) -> dict[int, float]:
    """Microseconds a step of a system, by number of threads."""
    return {r["threads"]: r[f"{show}_us"] for r in case["results"] if r["system"] == system}


def headline(machine: Results) -> str:
    """Machine, peak and bandwidth."""
    lines = [f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}"]
    for what, unit, by_side in (
        *((f"peak {d}", "GFLOP/s", sides) for d, sides in machine["peak"].items()),
        ("memory bandwidth", "GB/s", machine["bandwidth"]),
    ):
        lines.append(
            f"{what}: {by_side['core'] / 1e9:.1f} {unit} one core, {by_side['all'] / 1e9:.1f} all"
        )
    if machine["clock"]:
        lines.append(f"clock: {machine['clock'] / 1e9:.2f} GHz")
    if machine["probe"] != "C":
        lines.append(f"probes: {machine['probe']}")
    return "\n".join(lines)


def markdown(rows: list[list[str]]) -> str:
    """An aligned table; the first row is its head, the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(results: Results, show: str) -> str:
    """A row for each case: microseconds a step, and in brackets how many times minidl's."""
    peers = [name for name in results["systems"] if name != "minidl"]
    threads = results["settings"]["threads"]
    head = ["layers, batch"]
    head += [f"minidl, {n} thread{'s' if n > 1 else ''}" for n in threads]
    head += ["GFLOP/s", "of peak", *(results["systems"][peer] for peer in peers)]
    rows = [head]
    for case in results["cases"]:
        own = figures(case, "minidl", show)
        best = min(own.values())
        rate = case["flops"] / best * 1e6
        share = rate / results["machine"]["peak"][case["dtype"]]["all"]
        row = [case["name"], *(digits(own[n]) for n in threads)]
        row += [digits(rate / 1e9), f"{100 * share:.0f} %"]
        for peer in peers:
            other = min(figures(case, peer, show).values(), default=None)
            row.append("" if other is None else f"{digits(other)} ({other / best:.1f})")
        rows.append(row)
    note = (
        f"Microseconds a step, {show} of {results['settings']['rounds']} rounds, each peer at its "
        f"better number of threads; in brackets: times minidl's better figure. Peak: of "
        f"{results['machine']['cpus']} CPUs."
    )
    return f"{markdown(rows)}\n\n{note}"


def draw(results: Results, path: Path, show: str) -> None:
    """Microseconds over FLOP a step, log-log, a line for each system; Adam in float32."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "minidl"  # the same file from the same figures
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    panels = []
    for batch_norm, title in ((False, "without BatchNorm"), (True, "with BatchNorm")):
        chosen = [
            case
            for case in results["cases"]
            if case["batch_norm"] == batch_norm
            and (case["optimizer"], case["dtype"]) == ("adam", "float32")
        ]
        if chosen:
            panels.append((title, sorted(chosen, key=lambda case: case["flops"])))
    if not panels:
        raise SystemExit("no case with Adam in float32: nothing to draw")
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 5 * len(panels), 5.2), sharex=True, sharey=True, squeeze=False
    )
    for axis, (title, cases) in zip(axes[0], panels, strict=True):
        _panel(axis, title, cases, results, show)
    axes[0, 0].set_ylabel("microseconds a step", color=INK)
    figure.tight_layout(w_pad=2.5)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panel(axis: Any, title: str, cases: list[Results], results: Results, show: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    ends = []
    for system, label in results["systems"].items():
        points = [
            (case["flops"], min(times.values()))
            for case in cases
            if (times := figures(case, system, show))
        ]
        if not points:
            continue
        own = system == "minidl"
        x, y = zip(*points, strict=True)
        style = {"color": COLOURS[system], "zorder": 4 if own else 3}
        axis.plot(
            x, y, "o-", lw=2.2 if own else 1.2, ms=5 if own else 3.5, mec="white", mew=0.5, **style
        )
        ends.append([x[0], y[0], label, COLOURS[system], own])
    low, high = cases[0]["flops"], cases[-1]["flops"]
    peak = results["machine"]["peak"]["float32"]["all"]
    axis.set_xlim(low / 9, high * 2)
    axis.plot([low, high], [low / peak * 1e6, high / peak * 1e6], "--", color=GREY, lw=1, zorder=2)
    ends.append([low, low / peak * 1e6, "peak", GREY, False])
    _label_ends(axis, ends)
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.set_xlabel("floating-point operations a step", color=INK)
    axis.grid(True, which="major", color="#e6e6e6", lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", length=0, labelcolor=INK, labelleft=True)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _label_ends(axis: Any, ends: list[list[Any]]) -> None:
    """Name each line left of its first point, no two names on top of each other."""
    apart = 1.45  # factor from one name to the next
    height = 0.0
    for x, y, label, colour, bold in sorted(ends, key=lambda end: end[1]):
        height = max(y, height * apart)
        axis.annotate(
            label,
            (x, height),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            fontsize=9.5,
            fontweight="bold" if bold else "normal",
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="what `compare.py --json` wrote")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="svg or png")
    parser.add_argument("--show", choices=("best", "median"), default="best", help="of the rounds")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    print(headline(results["machine"]), end="\n\n")
    print(table(results, options.show))
    if options.picture is not None:
        draw(results, options.picture, options.show)


if __name__ == "__main__":
    main()

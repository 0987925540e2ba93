"""The commands, their options and what they print."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable
from typer.core import TyperGroup

import minidl
from minidl import checks
from minidl.cli import bench as benchmark
from minidl.cli import data, model
from minidl.cli.data import Task
from minidl.cli.errors import CliError, check_writable
from minidl.cli.model import Settings

ERRORS = (CliError, ValueError, OSError, MemoryError, minidl.NonFiniteError)


class Group(TyperGroup):
    """Commands whose errors are one line on stderr, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit."""
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except Exception as error:
            message = _message(error)
            if message is None:
                raise
            print("error:", " ".join(message.split()), file=sys.stderr)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it with exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


def _message(error: Exception) -> str | None:
    """Return what to tell the user, or None for what must be a fault of the program."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ERRORS):
        return str(error)
    # The usage errors of typer, which had them from click in some versions and has its own now.
    return error.format_message() if hasattr(error, "format_message") else None


app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"minidl {minidl.get_config()['version']}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train small neural networks on a table of numbers, and predict with them.

    \b
    Examples:
      minidl train digits
      minidl train houses.csv --target price
      minidl predict houses.safetensors new.csv
      minidl bench
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to use; by default all that help.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, an .npz file with arrays X and y, or a .csv file with a header.",
        ),
    ],
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the .csv file to learn.")
    ] = None,
    task: Annotated[
        Task,
        typer.Option(help="auto: regression where the target has fractions, else classification."),
    ] = Task.auto,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Model to write.  [default: SOURCE.safetensors]"),
    ] = None,
    force: Force = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = Settings.epochs,
    batch_size: Annotated[int, typer.Option(min=2, help="Rows a step.")] = Settings.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = Settings.lr,
    hidden: Annotated[
        str, typer.Option(metavar="WIDTHS", help="Widths of the hidden layers; '' for none.")
    ] = ",".join(map(str, Settings.hidden)),
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, the weights and the order of rows.")
    ] = Settings.seed,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Train on a table, test on a fifth of it, save the model.

    The network classifies or estimates a value: Linear-BatchNorm1d-ReLU layers and a last
    Linear, trained with Adam on standardised columns. What `minidl predict` needs is saved too.

    \b
    Examples:
      minidl train digits
      minidl train digits --epochs 50 --hidden 128,64 --out best.safetensors
      minidl train flowers.npz --seed 1
      minidl train houses.csv --target price --task regression
    """
    settings = Settings(_widths(hidden), epochs, batch_size, lr, seed)
    path = Path(source)
    if out is None:
        out = Path(f"{path.stem}.safetensors")
    check_writable(out, force)
    _set_threads(threads)
    if source != "digits":
        table = data.load_table(path, target)
    elif target is None:
        table = data.load_digits()
    else:
        raise CliError("--target is for .csv files")
    result = model.train(table, task, settings, progress=not quiet)
    minidl.save(result.model, out, metadata=result.metadata)
    if quiet:
        return
    rows = RichTable(title=f"{source}: {result.metadata['task']}", show_header=False)
    rows.add_column()
    rows.add_column(justify="right")
    for name, value in result.test.items():
        rows.add_row(f"test {name}", f"{value:.4g}")
    rows.add_row("epochs", str(epochs))
    rows.add_row("training time", f"{result.seconds:.3g} s")
    rows.add_row("samples per second", f"{result.samples / result.seconds:,.0f}")
    rows.add_row("threads", str(minidl.get_num_threads()))
    rows.add_row("CPU level", str(minidl.get_config()["isa"]))
    rows.add_row("model", str(out))
    _print(rows)


@app.command()
def predict(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="What `train` has saved.")],
    table: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .csv file with a header, or an .npz with array X."),
    ],
    proba: Annotated[
        bool, typer.Option("--proba", help="Add a column of probabilities for each class.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there.  [default: standard output]")
    ] = None,
    force: Force = False,
) -> None:
    """Write predictions for the rows of a file as CSV.

    The columns of a .csv file are found by name, in any order; those that the model does not
    know are left alone.

    \b
    Examples:
      minidl predict houses.safetensors new.csv
      minidl predict flowers.safetensors new.npz --proba --out predicted.csv
    """
    if out is not None:
        check_writable(out, force)
    text = model.predict(model_file, table, proba)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


@app.command()
def bench(
    batch_norm: Annotated[
        bool, typer.Option("--batch-norm", help="Put BatchNorm1d after every hidden Linear.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Training steps that are timed at once.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Timings; their median is printed.")] = 5,
    threads: Threads = None,
) -> None:
    """Compare the time of a training step with NumPy's.

    Both train with Adam from the same weights on the same data, in turns. --threads limits the
    threads of both.

    \b
    Examples:
      minidl bench
      minidl bench --batch-norm --threads 1
    """
    _set_threads(threads)
    table = RichTable(title=f"microseconds a step, {minidl.get_num_threads()} threads")
    table.add_column("network")
    for name in ("batch size", "minidl", "NumPy", "ratio"):
        table.add_column(name, justify="right")
    with benchmark.blas_threads(threads):
        for sizes, batch_size in benchmark.NETWORKS:
            timing = benchmark.compare(sizes, batch_size, steps, repeats, batch_norm)
            table.add_row(
                "-".join(map(str, sizes)),
                str(batch_size),
                f"{timing.minidl_us:,.1f}",
                f"{timing.numpy_us:,.1f}",
                f"{timing.numpy_us / timing.minidl_us:.2f}",
            )
    _print(table)


@app.command()
def info() -> None:
    """Print version, CPU levels, threads and compiler.

    \b
    Example:
      minidl info
    """
    minidl.show_config()


def _print(table: RichTable) -> None:
    """Print a table; names of files are not markup."""
    Console(markup=False, emoji=False, highlight=False).print(table)


def _widths(text: str) -> tuple[int, ...]:
    """Return the widths in "64,32"."""
    try:
        widths = tuple(int(width) for width in text.split(",")) if text.strip() else ()
    except ValueError:
        widths = (0,)
    if not all(1 <= width <= checks.MOST for width in widths):
        raise CliError(f"--hidden: {text!r} is not a list of widths such as 64,32")
    return widths


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        minidl.set_num_threads(threads)

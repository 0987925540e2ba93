"""The commands, their options and what they print."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable
from typer.core import TyperGroup

import minidl
from minidl import checks, distributed
from minidl.cli import bench as benchmark
from minidl.cli import data, model, tables, tabular
from minidl.cli.data import Task
from minidl.cli.errors import CliError, check_writable
from minidl.cli.model import Settings
from minidl.cli.results import Result
from minidl.files import form_of

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
        code = code if isinstance(code, int) else 0
        if code:
            distributed.end_all(code)
        sys.exit(code)

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
    """Train small neural networks on a table, and predict with them.

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
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column of the table to leave out; may be given again."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .csv file with a header, a .parquet file, an .npz file with arrays X and y, or "
            "digits.",
        ),
    ],
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the table to learn.")
    ] = None,
    task: Annotated[
        Task,
        typer.Option(help="auto: regression where the target has fractions, else classification."),
    ] = Task.auto,
    ignore: Ignore = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column of numbers that are categories; may be given again."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Model to write.  [default: SOURCE.safetensors]"),
    ] = None,
    force: Force = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the data; of a table at most.  [default: 25; of a table 35]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Rows a step.  [default: 64; of a table by its rows]"),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate.  [default: Adam's 0.001; of a table 0.04]"),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Widths of the hidden layers; '' for none.  [default: 256,64; of a table by rows]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, the weights and the order of rows.")
    ] = 0,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Train on a table, test on a fifth of it, save the model.

    It classifies or estimates a value. On a table of numbers, texts and missing values, .csv or
    .parquet, these are the networks of minidl.sklearn's TabularClassifier or TabularRegressor; on
    arrays Linear-BatchNorm1d-ReLU layers and a last Linear, trained with Adam on standardised
    columns. The scores on the fifth stand beside those of a constant guess: the classes' shares, or
    the mean. What `minidl predict` needs is saved too.

    Processes that `mpiexec` starts (pip install 'minidl[mpi]' mpich) train together: of arrays each
    has a part of the rows and of each batch, of tables some of the networks.

    \b
    Examples:
      minidl train houses.csv --target price --ignore id --categorical zipcode
      minidl train digits
      minidl train digits --epochs 50 --hidden 128,64 --out best.safetensors
      minidl train flowers.npz --seed 1
      mpiexec -n 4 minidl train flowers.npz
    """
    widths = None if hidden is None else _widths(hidden)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "hidden": widths}
    given = {name: value for name, value in given.items() if value is not None}
    path = Path(source)
    if out is None:
        out = Path(f"{path.stem}.safetensors")
    check_writable(out, force)
    _set_threads(threads)
    comm = _communicator()
    first = comm is None or comm.Get_rank() == 0
    quiet = quiet or not first
    if path.suffix.lower() in tables.KINDS:
        options = {tabular.PARAMETERS[name]: value for name, value in given.items()}
        table = tabular.load(path, target, ignore or ())
        progress = not quiet and minidl.ProgressBar.suits()
        result = tabular.train(
            table, task, categorical or (), ignore or (), options, seed, progress, comm
        )
    elif target or ignore or categorical:
        raise CliError("--target, --ignore and --categorical are for .csv and .parquet files")
    else:
        arrays = data.load_digits() if source == "digits" else data.load_arrays(path)
        settings = Settings(**given, seed=seed)
        result = model.train(arrays, task, settings, not quiet, comm)
    if first:
        result.write(out)
    if not quiet:
        _show(source, result, out)


def _communicator() -> Any:
    """All processes that `mpiexec` has started; None without it."""
    try:
        return distributed.world() if distributed.launched() else None
    except ImportError as error:
        raise CliError(str(error)) from None


def _show(source: str, result: Result, out: Path) -> None:
    """Print how a training went."""
    scores = RichTable(title=f"{source}: {result.task}")
    scores.add_column("on test rows")
    for name in ("model", "constant guess"):
        scores.add_column(name, justify="right")
    for name, (own, guess) in result.scores.items():
        scores.add_row(name, _number(own), _number(guess))
    _print(scores)
    facts = RichTable(show_header=False)
    facts.add_column()
    facts.add_column(justify="right")
    for name, value in result.facts.items():
        facts.add_row(name, value)
    facts.add_row("training time", f"{result.seconds:.3g} s")
    facts.add_row("threads", str(minidl.get_num_threads()))
    facts.add_row("CPU level", str(minidl.get_config()["isa"]))
    facts.add_row("model", str(out))
    _print(facts)


def _number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


@app.command()
def predict(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="What `train` has saved.")],
    table: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .csv file with a header, a .parquet file, or an .npz with array X.",
        ),
    ],
    proba: Annotated[
        bool, typer.Option("--proba", help="Add a column of probabilities for each class.")
    ] = False,
    ignore: Ignore = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there.  [default: standard output]")
    ] = None,
    force: Force = False,
) -> None:
    """Write predictions for the rows of a file as CSV.

    The columns of a table are found by name, in any order. One that is missing is an error, and so
    is one that the model was not trained with, but for the target and what --ignore names.

    \b
    Examples:
      minidl predict houses.safetensors new.csv
      minidl predict flowers.safetensors new.npz --proba --out predicted.csv
    """
    if out is not None:
        check_writable(out, force)
    for_tables = form_of(model_file) == "minidl-tabular-1"
    text = (tabular if for_tables else model).predict(model_file, table, proba, ignore or ())
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

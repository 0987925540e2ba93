"""The command line: what it prints and writes, its accuracy, and every error."""

import csv
import io
import re
import signal
import subprocess
import time

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("sklearn")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.csv")
pytest.importorskip("pyarrow.parquet")

from helpers import python, start_python  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import minidl  # noqa: E402
from minidl.cli import bench, data, model, results, tables, tabular  # noqa: E402
from minidl.cli.app import app  # noqa: E402
from minidl.cli.data import Task  # noqa: E402
from minidl.cli.errors import CliError  # noqa: E402
from minidl.sklearn import TabularClassifier, load_tabular  # noqa: E402

MAIN = ["-c", "from minidl.cli import main; main()"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    """Run a command that should succeed; return what it prints."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*args):
    """Run a command that should fail; return its only line without the `error: `."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    assert re.fullmatch("error: .+\n", result.output)
    return result.output.removeprefix("error: ").strip()


def scores(shown):
    """The table of scores: the model's and the constant guess's, by name."""
    plain = shown.replace(",", "")
    rows = re.findall(r"│ (accuracy|log loss|RMSE|MAE|R2) +│ +(\S+) │ +(\S+) │", plain)
    return {name: (float(own), float(guess)) for name, own, guess in rows}


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def blobs(labels, rows=60, seed=0):
    """Return three columns (the last one constant) and labels that the first two tell apart."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(rows) % len(labels)
    X = rng.normal(size=(rows, 3)) + 8 * np.eye(len(labels), 3)[numbers]
    X[:, 2] = 7.5
    return X, [labels[i] for i in numbers]


@pytest.fixture
def flowers(folder):
    """Write a CSV file of two classes named by strings."""
    X, y = blobs(["daisy", "rose, red"])
    rows = [[*x, label] for x, label in zip(X, y, strict=True)]
    return write_csv(folder / "flowers.csv", ["a", "b", "c", "kind"], rows)


@pytest.fixture
def houses(folder):
    """Write a CSV file whose target is a linear function, with fractions."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 3, size=(200, 2))
    y = 1000 + 100 * X[:, 0] - 50 * X[:, 1]
    return write_csv(folder / "houses.csv", ["price", "area", "age"], np.c_[y, X])


# ------------------------------------------------------------------------------ digits


def test_digits_accuracy():
    table = data.load_digits()
    trainings = [
        model.train(table, Task.auto, model.Settings(seed=seed), progress=False)
        for seed in range(10)
    ]
    accuracies = [trained.scores["accuracy"][0] for trained in trainings]
    assert np.mean(accuracies) >= 0.98
    assert min(accuracies) >= 0.97
    assert len(set(accuracies)) > 1  # the seed matters


def test_digits_process(folder):
    done = python(*MAIN, "train", "digits", cwd=folder)
    assert "Traceback" not in done.stderr
    shown = dict(re.findall(r"│ (.+?) +│ +(.+?) │", done.stdout))
    accuracy, guess = scores(done.stdout)["accuracy"]
    assert accuracy >= 0.97
    assert 0.05 < guess < 0.15
    assert shown["epochs"] == str(model.Settings.epochs)
    assert shown["training time"].endswith(" s")
    assert float(shown["samples per second"].replace(",", "")) > 0
    assert shown["threads"] == str(minidl.get_num_threads())
    assert shown["CPU level"] == minidl.get_config()["isa"]
    assert shown["model"] == "digits.safetensors"

    digits = data.load_digits()
    np.savez(folder / "images.npz", X=digits.X)
    labels = [int(row["digit"]) for row in read_csv(run("predict", shown["model"], "images.npz"))]
    assert np.mean(labels == digits.y) > 0.98


def test_digits_options(folder):
    options = ["--epochs", 2, "--batch-size", 100, "--lr", 0.01, "--hidden", "32", "--seed", 3]
    args = ["train", "digits", *options, "--threads", 1, "--quiet"]
    before = minidl.get_num_threads()
    try:
        assert run(*args, "--out", "a.safetensors") == ""
        assert run(*args, "--out", "b.safetensors") == ""
    finally:
        minidl.set_num_threads(before)
    a, b = minidl.load(folder / "a.safetensors"), minidl.load(folder / "b.safetensors")
    X = np.zeros((1, 64), np.float32)
    np.testing.assert_array_equal(a.predict(X), b.predict(X))
    assert len(a.metadata["mean"]) == 64
    assert a.metadata["classes"] == list(range(10))


def test_hidden_may_be_empty(flowers):
    run("train", flowers, "--target", "kind", "--hidden", "", "--quiet")


# ------------------------------------------------------------------------ tables, predict


def test_csv_classification(flowers, folder):
    shown = run("train", flowers, "--target", "kind")
    assert "flowers.csv: classification" in re.sub(r"\s+", " ", shown)
    found = scores(shown)
    assert found["accuracy"][0] > found["accuracy"][1] == 0.5
    assert found["log loss"][0] < found["log loss"][1] == pytest.approx(np.log(2), rel=1e-3)
    estimator = load_tabular(folder / "flowers.safetensors")
    assert isinstance(estimator, TabularClassifier)
    assert estimator.feature_names_in_.tolist() == ["a", "b", "c"]
    assert estimator.classes_.tolist() == ["daisy", "rose, red"]

    rows = [[7.5, 8, 0], [7.5, 0, 8]]  # another order
    new = write_csv(folder / "new.csv", ["c", "a", "b"], rows)
    labels = [row["kind"] for row in read_csv(run("predict", "flowers.safetensors", new))]
    assert labels == ["daisy", "rose, red"]

    run("predict", "flowers.safetensors", new, "--proba", "--out", "out.csv")
    rows = read_csv((folder / "out.csv").read_text())
    assert [row["kind"] for row in rows] == labels
    for row, label in zip(rows, labels, strict=True):
        shares = {name: float(row[f"p({name})"]) for name in labels}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert max(shares, key=shares.get) == label


def test_csv_regression(houses):
    shown = run("train", houses, "--target", "price")
    assert "regression" in shown
    found = scores(shown)
    assert found["R2"][0] > 0.95
    assert found["R2"][1] == pytest.approx(0, abs=0.1)
    assert found["RMSE"][0] < 0.3 * found["RMSE"][1]
    assert found["MAE"][0] < 0.3 * found["MAE"][1]
    rows = read_csv(run("predict", "houses.safetensors", houses))  # the target may be there
    with houses.open() as file:
        prices = np.array([float(row["price"]) for row in csv.DictReader(file)])
    assert np.std([float(row["price"]) for row in rows] - prices) < 0.2 * prices.std()


@pytest.fixture
def mixed(folder):
    """Write a CSV file with numbers, texts, booleans, gaps and an identifier."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=1000)
    color, sold = rng.choice(["red", "blue", ""], 1000), rng.random(1000) < 0.5
    zipcode = rng.choice([10115, 20095, 80331], 1000)
    price = 100 + 10 * size * (color != "red") + 5 * sold + 8 * (zipcode == 20095)
    shown = ["NA" if i % 20 == 0 else f"{v:.4f}" for i, v in enumerate(size)]
    rows = zip(range(1000), shown, color, sold, zipcode, price.round(2), strict=True)
    return write_csv(
        folder / "mixed.csv", ["id", "size", "color", "sold", "zipcode", "price"], rows
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "tsv"])
def test_mixed_columns(kind, mixed, folder):
    table = tables.read(mixed)
    path = folder / "table.csv"
    if kind == "parquet":
        path = folder / "table.parquet"
        pa.parquet.write_table(table, path)
    elif kind == "tsv":
        path.write_text(mixed.read_text().replace(",", "\t"))
    else:
        path.write_text(mixed.read_text())
    options = ["--target", "price", "--ignore", "id", "--categorical", "zipcode"]
    found = scores(run("train", path, *options))
    assert found["R2"][0] > 0.8
    assert found["R2"][1] < 0.1
    estimator = load_tabular(folder / "table.safetensors")
    assert estimator.feature_names_in_.tolist() == ["size", "color", "sold", "zipcode"]
    assert len(estimator.encoder_.columns_[3].levels) == 3  # of numbers
    expected = read_csv(run("predict", "table.safetensors", path))
    shuffled = table.select(["zipcode", "sold", "size", "color"])
    pa.csv.write_csv(shuffled, folder / "shuffled.csv")
    assert read_csv(run("predict", "table.safetensors", "shuffled.csv")) == expected
    few = shuffled.slice(0, 3).drop_columns(["sold", "size"])
    pa.csv.write_csv(few.append_column("weight", pa.array([1, 2, 3])), folder / "few.csv")
    message = fail("predict", "table.safetensors", "few.csv")
    assert message.startswith("few.csv: X: expected the 4 columns")
    assert "lacks columns 'size', 'sold' and has column 'weight'" in message
    pa.csv.write_csv(shuffled.append_column("weight", shuffled["zipcode"]), folder / "more.csv")
    assert "has column 'weight' beside them" in fail("predict", "table.safetensors", "more.csv")
    ignoring = run("predict", "table.safetensors", "more.csv", "--ignore", "weight")
    assert read_csv(ignoring) == expected


def test_a_text_among_numbers_is_no_category(folder):
    (folder / "t.csv").write_text("a,y\n" + "1,0\n2,1\n" * 5 + "?,1\n")
    assert fail("train", "t.csv", "--target", "y") == (
        "t.csv: row 11, column 'a': '?' is not a number, as most are there; mend it, or give "
        "--categorical a"
    )
    run("train", "t.csv", "--target", "y", "--categorical", "a", "--quiet")


def test_what_a_new_file_has_instead_of_numbers(mixed, folder):
    run("train", mixed, "--target", "price", "--ignore", "id", "--epochs", 7, "--quiet")
    (folder / "new.csv").write_text("size,color,sold,zipcode\n1,red,true,1\nlarge,red,true,1\n")
    message = fail("predict", "mixed.safetensors", "new.csv")
    assert message.startswith("new.csv: ")
    assert "conversion error to double: invalid value 'large'" in message


def test_columns_of_a_new_file_are_what_they_were_in_training(folder):
    """Though a few rows of texts may look like numbers, or all be dates."""
    rng = np.random.default_rng(0)
    codes, flags = rng.choice(["250", "401", "V45"], 300), rng.choice(["true", "unknown"], 300)
    days = rng.choice(["2020-01-02", "never"], 300)
    label = (codes == "250") ^ (flags == "true") ^ (days == "never")
    rows = zip(codes, flags, days, label, strict=True)
    train = write_csv(folder / "t.csv", ["code", "flag", "day", "y"], rows)
    options = ["--categorical", "code"]
    assert scores(run("train", train, "--target", "y", *options))["accuracy"][0] > 0.95
    new = [["250", "true", "2020-01-02"], ["401", "true", "2020-01-02"]]
    few = write_csv(folder / "few.csv", ["code", "flag", "day"], new)
    more = write_csv(
        folder / "more.csv", ["code", "flag", "day"], [*new, ["V45", "unknown", "never"]]
    )
    predicted = [row["y"] for row in read_csv(run("predict", "t.safetensors", few))]
    assert predicted == [row["y"] for row in read_csv(run("predict", "t.safetensors", more))][:2]
    assert predicted == ["False", "True"]
    table = pa.table({"code": [250, 401], "flag": [True, True], "day": ["never", "never"]})
    pa.parquet.write_table(table, folder / "few.parquet")
    assert "column 'code': expected categories such as" in fail(
        "predict", "t.safetensors", "few.parquet"
    )


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas(delimiter, folder):
    x = np.linspace(0, 9, 200).round(2)
    shown = [f"{v:.2f}".replace(".", ",") for v in x]
    lines = [delimiter.join(["a b", "y"]), *(delimiter.join([v, v]) for v in shown)]
    (folder / "t.csv").write_text("\n".join(lines))
    assert tables.read(folder / "t.csv")["y"].to_pylist() == x.tolist()
    assert scores(run("train", "t.csv", "--target", "y"))["R2"][0] > 0.95


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_all_kinds_of_texts(kind, folder):
    values = pa.array([" 1", "2 ", "oops", "3", ""] * 6).cast(kind)
    if kind == "string_view":  # as some writers leave it
        pytest.importorskip("pyarrow", minversion="18")
    table = pa.table({"a": values, "y": [0, 1, 1, 0, 1] * 6})
    pa.parquet.write_table(table, folder / "t.parquet")
    assert tables.read(folder / "t.parquet")["a"].to_pylist()[:5] == ["1", "2", "oops", "3", None]
    assert "row 3, column 'a': 'oops' is not a number" in fail(
        "train", "t.parquet", "--target", "y"
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"\xff"] * 10), "holds binary; expected numbers, texts or booleans"),
        (pa.array([[1]] * 10), "holds list"),
        (pa.array([1.0] * 9 + [np.inf]), "row 10, column 'a': inf is not finite"),
    ],
)
def test_columns_that_nothing_is_learned_from(column, message, folder):
    pa.parquet.write_table(pa.table({"a": column, "y": [0, 1] * 5}), folder / "t.parquet")
    assert message in fail("train", "t.parquet", "--target", "y")


def test_decimals(folder):
    from decimal import Decimal

    values = [Decimal(i) / 4 for i in range(80)]
    pa.parquet.write_table(pa.table({"a": values, "y": values}), folder / "t.parquet")
    assert "regression" in run("train", "t.parquet", "--target", "y", "--epochs", 7)


def test_scores():
    P = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [1.0, 0.0]])
    got = results.scores_of_classes(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0]), P)
    assert got["accuracy"] == (0.75, 0.5)
    assert got["log loss"][0] == pytest.approx(-np.log([0.8, 0.6, 0.1, 1.0]).mean())
    assert got["log loss"][1] == pytest.approx(-np.log([0.75, 0.25, 0.25, 0.75]).mean())
    got = results.scores_of_values(np.array([1.0, 3.0]), np.array([0.0, 4.0]), np.array([0.0, 3.0]))
    assert got["RMSE"] == (pytest.approx(0.5**0.5), 2.0)
    assert got["MAE"] == (0.5, 2.0)
    assert got["R2"] == (pytest.approx(1 - 0.5 / 4), 0.0)
    constant = results.scores_of_values(np.zeros(1), np.zeros(1), np.ones(1))
    assert np.isnan(constant["R2"]).all()


@pytest.mark.parametrize(
    "labels",
    [[0, 1], [1.0, -3.0], [False, True], ["yes", "no"], [b"yes", b"no"]],
    ids=lambda labels: type(labels[0]).__name__,
)
def test_npz_classification(labels, folder):
    X, y = blobs(labels)
    np.savez(folder / "table.npz", X=X, y=y)
    assert "classification" in run("train", "table.npz", "--epochs", 40)
    rows = read_csv(run("predict", "table.safetensors", "table.npz"))
    plain = [label.decode() if isinstance(label, bytes) else label for label in y]
    plain = [int(label) if isinstance(label, float) else label for label in plain]
    assert np.mean([row["y"] == str(label) for row, label in zip(rows, plain, strict=True)]) > 0.9


def test_npz_regression(folder):
    X, _ = blobs([0, 1])
    with (folder / "[red].NPZ").open("wb") as file:
        np.savez(file, X=X, y=X[:, :1] + 0.25)
    assert "[red].NPZ: regression" in re.sub(r"\s+", " ", run("train", "[red].NPZ"))


@pytest.mark.parametrize(
    ("y", "wanted", "task"),
    [
        ([1, 2, 1, 2, 1], "auto", "classification"),
        ([1.5, 2, 1, 2, 1], "auto", "regression"),
        ([1.0, 2, 1, 2, 1], "auto", "classification"),
        ([1, 2, 1, 2, 1], "regression", "regression"),
        ([1, 2, 3, 4, 5], "classification", "classification"),
        (["a", "b", "a", "b", "a"], "auto", "classification"),
        (["a", "b", "c", "d", "e"], "classification", "classification"),
    ],
)
def test_choose_task(y, wanted, task):
    table = data.Table("t", ["x"], np.zeros((len(y), 1)), "y", np.array(y))
    assert data.choose_task(Task(wanted), table) == task


@pytest.mark.parametrize(
    ("y", "wanted", "message"),
    [
        ([1.5, 2, 1, 2, 1], "classification", "fractions"),
        ([1, 1, 1, 1, 1], "auto", "two classes"),
        ([1, 2, 3, 4, 5], "auto", "--task"),
        (["a", "b", "c", "d", "e"], "auto", "--task"),
        ([*range(51)] * 4, "auto", "--task"),
        ([1, 2, 1, 2], "auto", "4 rows"),
        (["1", "2", "3", "4", "5"], "regression", "t: row 1, column 'y': '1' is text"),
        (["1", "b", "c", "d", "e"], "regression", "t: row 2, column 'y': 'b' is text"),
    ],
)
def test_choose_task_refuses(y, wanted, message):
    table = data.Table("t", ["x"], np.zeros((len(y), 1)), "y", np.array(y))
    with pytest.raises(CliError, match=message):
        data.choose_task(Task(wanted), table)


def test_split_divides_each_class():
    classes = np.repeat([0, 1, 2], [100, 20, 10])
    training, testing = data.split(130, classes, 0.2, np.random.default_rng(0))
    assert sorted([*training, *testing]) == list(range(130))
    assert np.bincount(classes[testing]).tolist() == [20, 4, 2]


def test_scaling():
    X = np.array([[0.1, 1.0, 1e9], [0.1, 3.0, 1e9 + 1], [0.1, 5.0, 1e9 + 2]])
    mean, scale = data.moments(X)
    scaled = data.standardise(X, mean, scale)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0), [0, 1, 1], atol=1e-6)
    with pytest.raises(CliError, match="too large"):
        data.standardise(np.full((2, 1), 1e200), *data.moments(np.array([[0.0], [1.0]])))


# ------------------------------------------------------------------------- bench, info


@pytest.mark.parametrize("batch_norm", [False, True])
def test_bench_trains_the_same_network(batch_norm):
    timing = bench.compare((20, 32, 16, 2), 32, steps=20, repeats=2, batch_norm=batch_norm)
    assert timing.minidl_us > 0
    assert timing.numpy_us > 0
    assert timing.minidl_loss == pytest.approx(timing.numpy_loss, rel=1e-3)


def test_bench_prints_a_table():
    before = minidl.get_num_threads()
    try:
        shown = run("bench", "--steps", 1, "--repeats", 1, "--threads", 1)
    finally:
        minidl.set_num_threads(before)
    rows = re.findall(r"│ ([\d-]+) +│ +(\d+) │ +[\d.,]+ │ +[\d.,]+ │ +[\d.]+ │", shown)
    assert [row[0] for row in rows] == ["-".join(map(str, sizes)) for sizes, _ in bench.NETWORKS]


def test_info(capfd):
    minidl.show_config()
    assert run("info") == capfd.readouterr().out


def test_version():
    assert run("--version") == f"minidl {minidl.get_config()['version']}\n"


@pytest.mark.parametrize("command", ["train", "predict", "bench", "info"])
def test_help(command):
    assert command in run()
    shown = run(command, "--help")
    assert f"minidl {command}" in shown.partition("Example")[2]


# ------------------------------------------------------------------------------ errors


def test_bad_options():
    assert "bogus" in fail("bogus")
    assert "SOURCE" in fail("train")
    assert "--bogus" in fail("train", "digits", "--bogus")
    for option, value in [
        ("--epochs", 0),
        ("--batch-size", 1),
        ("--batch-size", "many"),
        ("--lr", -1),
        ("--lr", "nan"),
        ("--seed", -1),
        ("--threads", 0),
        ("--task", "guess"),
        ("--hidden", "64,x"),
        ("--hidden", "64,0"),
        ("--hidden", ","),
        ("--hidden", 10**13),
        ("--target", "digit"),
    ]:
        assert option.strip("-") in fail("train", "digits", option, value)


def test_existing_output(flowers, folder, monkeypatch):
    (folder / "flowers.safetensors").write_text("mine")
    args = ["train", flowers, "--target", "kind", "--epochs", 1, "--quiet"]
    with monkeypatch.context() as patched:
        patched.setattr(tabular, "train", None)  # refused before any work
        assert "flowers.safetensors: already exists" in fail(*args)
        assert "is a directory" in fail(*args, "--out", folder, "--force")
        assert "no directory" in fail(*args, "--out", folder / "no" / "x.safetensors")
    assert (folder / "flowers.safetensors").read_text() == "mine"
    run(*args, "--force")
    (folder / "out.csv").write_text("mine")
    predict = ["predict", "flowers.safetensors", flowers, "--out", "out.csv"]
    assert "out.csv: already exists" in fail(*predict)
    run(*predict, "--force")
    assert (folder / "out.csv").read_text().startswith("kind\n")


def test_unknown_files(flowers):
    assert fail("train", "no.csv", "--target", "x") == "no.csv: No such file or directory"
    assert fail("train", "no.npz") == "no.npz: No such file or directory"
    assert "want a .csv, .parquet or .npz file" in fail("train", "iris")
    assert "no.safetensors" in fail("predict", "no.safetensors", flowers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,0\n\n3,inf,1\n" + "1,2,0\n" * 5, "row 2, column 'b': inf is not finite"),
        (",b,y\n" + "1,2,0\n3,4,1\n" * 5, "a column has no name; give it one, or --ignore ''"),
        ("a,y\n" + "1,0\n1,1\n" * 5, "expected a column that tells rows apart"),
        ("a,b,y\n1,2,0\n1,2, \n", "row 2, column 'y': the value is missing"),
        ("a,b,y\n1,2,0\n1,2,nan\n", "row 2, column 'y': the value is missing"),
        ("a,b,y\n1,2,0.5\n1,2,inf\n", "row 2, column 'y': inf is not finite"),
        ("a,b,y\n1,2\n", "Expected 3 columns, got 2"),
        ("a,b\n1,2\n", "no column 'y' among a, b"),
        ("a,a,y\n1,2,3\n", "2 columns are named 'a'"),
        ("a, a,y\n1,2,3\n", "2 columns are named 'a'"),
        ("y\n1\n", "there is no other column than y"),
        ("a,b,y\n", "want columns with names, and rows below them"),
        ("", "want columns with names, and rows below them"),
        ("a,y\n1,0\n2,1\n", "2 rows; training wants"),
        ("a,y\n" + "1,0\n1,1\n1,2\n" * 2, "6 rows are too few"),
        ("a,y\n1,\xff\n", "bad.csv: not UTF-8"),
        ("a,y\n" + "1,0\n" * 10_000 + "1,\xff\n", "column 'y': the text is not UTF-8"),
        ("\xff,y\n1,1\n", "not UTF-8"),
        ("a,y\n" + "2020-01-02,0\n2021-02-03,1\n" * 5, "and --ignore a"),
        ("a,y\n1,2020-01-02\n", "column 'y': expected numbers or texts, got"),
    ],
)
def test_bad_csv(text, message, folder):
    (folder / "bad.csv").write_text(text, encoding="latin-1")
    assert message in fail("train", "bad.csv", "--target", "y", "--epochs", 1)


def test_bad_parquet(folder):
    (folder / "bad.parquet").write_text("no table")
    assert fail("train", "bad.parquet", "--target", "y").startswith("bad.parquet: ")
    assert "No such file" in fail("train", "none.parquet", "--target", "y")


def test_the_index_of_a_frame_is_no_column(folder):
    table = pa.table({"x": [1, 2], "__index_level_0__": [5, 6]})
    pa.parquet.write_table(table, folder / "frame.parquet")
    assert tables.read(folder / "frame.parquet").column_names == ["x"]


def test_columns_that_options_name(flowers):
    for option in ("--ignore", "--categorical"):
        message = fail("train", flowers, "--target", "kind", option, "d")
        assert "no column 'd' among a, b, c" in message
    assert "'kind' is the target" in fail("train", flowers, "--target", " kind", "--ignore", "kind")
    everything = [word for name in "abc" for word in ("--ignore", name)]
    assert "no other column" in fail("train", flowers, "--target", "kind", *everything)
    assert "are for .csv" in fail("train", "digits", "--ignore", "a")


def test_csv_wants_a_target(flowers):
    assert "--target must name the column to learn: a, b, c, kind" in fail("train", flowers)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((9, 2))}, "no array y among X"),
        ({"y": np.zeros(9)}, "no array X among y"),
        ({"X": np.zeros(9), "y": np.zeros(9)}, "the features must be a table of numbers"),
        ({"X": np.full((9, 2), "a"), "y": np.zeros(9)}, "the features must be a table of numbers"),
        ({"X": np.zeros((9, 2)), "y": np.zeros(8)}, "y must be 9 numbers or strings"),
        ({"X": np.zeros((9, 2)), "y": np.zeros((9, 2))}, "y must be 9 numbers or strings"),
        ({"X": np.array([[0, 1], [2, np.nan]]), "y": np.zeros(2)}, "row 2, column 2: nan"),
        ({"X": np.zeros((2, 2)), "y": np.array([0, np.inf])}, "row 2 of y: inf"),
        ({"X": np.zeros((9, 2)), "y": np.array([None, {}])}, "allow_pickle"),
    ],
)
def test_bad_npz(arrays, message, folder):
    np.savez(folder / "bad.npz", **arrays)
    assert message in fail("train", "bad.npz")


def test_not_an_npz(folder):
    np.save(folder / "array.npy", np.zeros(3))
    for content in ((folder / "array.npy").read_bytes(), b"", b"PK\x03\x04 no more", b"text"):
        (folder / "bad.npz").write_bytes(content)
        assert fail("train", "bad.npz") == "bad.npz: not an .npz file"
    assert "--target, --ignore and" in fail("train", "bad.npz", "--target", "y")


def test_training_that_diverges(houses, folder):
    assert fail("train", houses, "--target", "price", "--lr", 1e30, "--epochs", 5)
    assert not (folder / "houses.safetensors").exists()


def test_bad_predictions(flowers, houses, folder):
    run("train", flowers, "--target", "kind", "--epochs", 1, "--quiet")
    run("train", houses, "--target", "price", "--epochs", 1, "--quiet")
    message = fail("predict", "flowers.safetensors", houses)
    assert "lacks columns 'a', 'b', 'c' and has columns 'price', 'area', 'age'" in message
    assert "--proba is for classification" in fail(
        "predict", "houses.safetensors", houses, "--proba"
    )
    np.savez(folder / "new.npz", X=np.zeros((2, 5)))
    assert "want a .csv or .parquet file" in fail("predict", "flowers.safetensors", "new.npz")
    (folder / "bad.safetensors").write_text("no model")
    assert "bad.safetensors" in fail("predict", "bad.safetensors", "new.npz")
    minidl.save(model.mlp([3, 2], False, seed=0), folder / "other.safetensors")
    assert "not written by `minidl train`" in fail("predict", "other.safetensors", "new.npz")


def test_a_network_predicts_for_tables_and_arrays(folder):
    X, y = blobs([0, 1])
    np.savez(folder / "flowers.npz", X=X, y=y)
    run("train", "flowers.npz", "--epochs", 40, "--quiet")
    expected = run("predict", "flowers.safetensors", "flowers.npz")
    write_csv(folder / "same.csv", ["x2", "y", "x0", "x1"], np.c_[X[:, 2], y, X[:, :2]].tolist())
    assert run("predict", "flowers.safetensors", "same.csv") == expected
    for text, message in [
        ("x0,x1\n1,2\n", "lacks column 'x2'"),
        ("x0,x1,x2,x3\n1,2,3,4\n", "has column 'x3' beside them"),
        ("x0,x1,x2\n1,2,3\n1,,3\n", "row 2, column 'x1': the value is missing"),
        ("x0,x1,x2\n1,2,3\n1,?,3\n", "column 'x1': expected numbers"),
    ]:
        (folder / "new.csv").write_text(text)
        assert message in fail("predict", "flowers.safetensors", "new.csv")
    np.savez(folder / "new.npz", X=np.zeros((2, 5)))
    assert "X has 5 columns, the model wants 3" in fail("predict", "flowers.safetensors", "new.npz")
    assert "want a .csv" in fail("predict", "flowers.safetensors", "new.txt")


@pytest.mark.parametrize(
    ("outputs", "more"),
    [(2, {"classes": ["x", "y"]}), (1, {"target_mean": 1.0, "target_scale": 2.0})],
)
def test_metadata_that_say_something_else(outputs, more, folder):
    """One line that names the file, or predictions that nothing keeps from being made."""
    facts = {"writer": "minidl train", "features": ["a", "b", "c"], "target": "t", **more,
             "mean": [0.0] * 3, "scale": [1.0] * 3}  # fmt: skip
    np.savez(folder / "new.npz", X=np.zeros((2, 3)))
    minidl.save(model.mlp([3, outputs], False, seed=0), "m", facts)
    run("predict", "m", "new.npz")
    refused = 0
    for key in facts.keys() - {"writer"}:
        for other in (None, 3, "x", [], [[1]], {}, [None] * 3, [1e400] * 3):
            minidl.save(model.mlp([3, outputs], False, seed=0), "m", facts | {key: other})
            result = CliRunner().invoke(app, ["predict", "m", "new.npz"])
            assert result.exit_code in (0, 2), result.exception
            refused += result.output.startswith("error: m: metadata: ")
    assert refused > 15


@pytest.mark.parametrize("arguments", [["bogus"], ["train", "no.npz"]])
def test_errors_go_to_stderr(arguments, folder):
    done = python(*MAIN, *arguments, cwd=folder, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: .+\n", done.stderr)


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(minidl, "show_config", broken)
    assert isinstance(CliRunner().invoke(app, ["info"]).exception, ZeroDivisionError)


@pytest.mark.parametrize("package", ["typer", "rich", "sklearn", "pyarrow"])
def test_missing_extra(package, flowers, folder):
    code = f"import sys; sys.modules[{package!r}] = None; from minidl.cli import main; main()"
    source = ["flowers.csv", "--target", "kind"] if package == "pyarrow" else ["digits"]
    done = python("-c", code, "train", *source, cwd=folder, check=False)
    assert done.returncode == 2
    name = {"sklearn": "scikit-learn"}.get(package, package)
    assert done.stderr == f"error: {name} is missing: pip install 'minidl[cli]'\n"


def test_interrupt(flowers, folder):
    code = """
# All is imported before: an interrupt within an import may become another error.
from minidl.cli import main
from minidl.sklearn import tabular

def train(*args, train=tabular.train, **kwargs):
    print("started", flush=True)
    return train(*args, **kwargs)

tabular.train = train
main()
"""
    args = ["train", str(flowers), "--target", "kind", "--epochs", "100000000", "--quiet"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start_python("-c", code, *args, cwd=folder, **pipes) as process:
        try:
            assert process.stdout.readline() == "started\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")
    assert not (folder / "flowers.safetensors").exists()

"""The tabular estimators and their encoder."""

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import minidl  # noqa: E402
from minidl.sklearn import TabularClassifier, TabularEncoder, TabularRegressor  # noqa: E402
from minidl.sklearn import tabular_network as network  # noqa: E402

QUICK = {"n_models": 2, "hidden_layer_sizes": (16,), "max_iter": 7}


def mixed(rows=600, seed=0):
    """A table of all kinds of columns, and what its classes and values depend on."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=rows)
    color = rng.choice(["red", "green", "blue"], rows)
    city = rng.choice([f"city {i}" for i in range(30)], rows)
    gap = rng.normal(size=rows)
    absent = rng.random(rows) < 0.3
    frame = pd.DataFrame(
        {
            "size": size,
            "count": rng.integers(0, 9, rows),
            "flag": rng.random(rows) < 0.5,
            "color": color,
            "city": pd.Categorical(city),
            "gap": np.where(absent, np.nan, gap),
        }
    )
    far = np.array([name[-1] in "137" for name in city])
    value = np.where(color == "red", np.abs(size), size) + far + 2.0 * absent
    return frame, value


# The encoder.


def test_a_number_is_scaled_by_median_and_quartiles_and_clipped_smoothly():
    x = np.array([0.0, 1.0, 2.0, 3.0, 1000.0])
    got = TabularEncoder(n_bins=0).fit_transform(x[:, None])
    z = (x - 2.0) / (3.0 - 1.0)
    np.testing.assert_allclose(got[:, 0], z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-6)
    assert got.dtype == np.float32
    assert np.abs(got).max() < 3


def test_a_far_number_is_clipped_however_far():
    x = np.array([0.0, 1e-9, 2e-9, 1e200, -1e308])
    got = TabularEncoder(n_bins=2).fit(x[:3, None]).transform(x[:, None])
    np.testing.assert_allclose(got[3:], [[3, 1, 1], [-3, 0, 0]])


def test_where_the_quartiles_agree_half_the_range_is_the_scale():
    x = np.array([0.0, 5, 5, 5, 5, 5, 5, 9])
    got = TabularEncoder(n_bins=0).fit_transform(x[:, None])[:, 0]
    z = (x - 5) / 4.5
    np.testing.assert_allclose(got, z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-6)


@pytest.mark.parametrize("n_bins", [2, 8, 16])
def test_piecewise_linear_encoding(n_bins):
    """Of the definition; beyond the outermost edges it is all zeros and all ones."""
    rng = np.random.default_rng(0)
    x, new = rng.exponential(size=256), np.array([-5.0, 0.1, 1.0, 3.0, 99.0])
    encoder = TabularEncoder(n_bins=n_bins).fit(x[:, None])
    edges = np.sort(x)[[max(256 * i // n_bins - 1, 0) for i in range(n_bins + 1)]]
    expected = [
        [min(max((v - low) / (high - low), 0), 1) for low, high in pairwise(edges)] for v in new
    ]
    got = encoder.transform(new[:, None])
    np.testing.assert_allclose(got[:, 1:], expected, rtol=1e-5, atol=1e-6)
    assert not got[0, 1:].any()
    assert (got[-1, 1:] == 1).all()


def test_few_values_are_the_edges_and_a_frequent_one_leaves_bins_for_others():
    x = np.repeat([0.0, 1.0, 2.0], [90, 5, 5])
    encoder = TabularEncoder(n_bins=10).fit(x[:, None])
    assert encoder.columns_[0].edges.tolist() == [0, 1, 2]
    x = np.append(np.zeros(90), np.arange(1.0, 11))
    encoder = TabularEncoder(n_bins=5).fit(x[:, None])
    assert encoder.columns_[0].edges.tolist() == [0, 4, 10]
    x = np.repeat([0.0, 1.0], 50)  # a line already
    assert TabularEncoder(n_bins=10).fit(x[:, None]).n_dense_ == 1


def test_automatic_bins_share_256_columns_or_one_for_four_rows():
    rng = np.random.default_rng(0)
    widths = [
        TabularEncoder().fit(rng.normal(size=(rows, columns))).columns_[0].width - 1
        for rows, columns in [(3000, 2), (3000, 20), (3000, 300), (100, 2), (400, 20), (400, 30)]
    ]
    assert widths == [48, 12, 4, 10, 5, 4]


def test_what_is_missing_is_zero_and_marked():
    x = np.array([1.0, 2, 3, 4, np.nan])[:, None]
    encoder = TabularEncoder(n_bins=2).fit(x)
    got = encoder.transform(x)
    assert got[:, -1].tolist() == [0, 0, 0, 0, 1]
    assert not got[4, :-1].any()
    whole = TabularEncoder(n_bins=2).fit(x[:4])  # had none: the median
    np.testing.assert_array_equal(whole.transform(x)[4], whole.transform([[2.5]])[0])
    assert whole.n_dense_ == encoder.n_dense_ - 1


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_a_column_of_one_value_gives_no_numbers(value):
    X = np.column_stack([np.full(9, value), np.arange(9.0)])
    encoder = TabularEncoder(n_bins=0).fit(X)
    assert encoder.n_dense_ == (1 if value == 7 else 2)  # with the indicator
    assert np.isfinite(encoder.transform(X)).all()


def test_few_categories_are_one_hot_and_many_are_codes():
    few, many = ["a", "b", None, "a", "b", None], ["u", "v", "w", "u", "v", "w"]
    X = np.array([few, many], dtype=object).T
    encoder = TabularEncoder(max_one_hot=3).fit(X)
    assert (encoder.n_dense_, encoder.cardinalities_) == (6, [])
    encoder = TabularEncoder(max_one_hot=2).fit(X)
    assert (encoder.n_dense_, encoder.cardinalities_) == (0, [4, 4])
    assert encoder.transform(X)[:, 0].tolist() == [2, 3, 1, 2, 3, 1]
    assert encoder.columns_[0].levels == [None, "a", "b"]


def test_names_of_the_result():
    frame = pd.DataFrame({"n": [1.0, 2, 3, np.nan] * 2, "c": ["a", "b", None, "a"] * 2})
    encoder = TabularEncoder(n_bins=2).set_output(transform="pandas").fit(frame)
    assert encoder.transform(frame).columns.tolist() == [
        "n", "n_bin0", "n_bin1", "n_missing", "c_a", "c_None", "c_b"
    ]  # fmt: skip
    codes = TabularEncoder(n_bins=0, max_one_hot=1).fit(frame.to_numpy(dtype=object))
    assert codes.get_feature_names_out().tolist() == ["x0", "x0_missing", "x1_code"]


def test_rare_and_unseen_categories_have_code_0():
    X = np.array(["a"] * 5 + ["b"] * 3 + ["once"], dtype=object)[:, None]
    new = np.array([["a"], ["b"], ["once"], ["never"], [None]], dtype=object)
    codes = TabularEncoder(max_one_hot=0).fit(X)
    assert codes.transform(new)[:, 0].tolist() == [1, 2, 0, 0, 0]
    one_hot = TabularEncoder().fit(X).transform(new)
    assert one_hot.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert TabularEncoder(max_one_hot=0, min_frequency=4).fit(X).cardinalities_ == [2]


def test_all_kinds_of_tables_are_read_alike():
    frame, _ = mixed(80)
    expected = TabularEncoder().fit_transform(frame)
    objects = frame.astype(object)
    arrow = frame.convert_dtypes()
    arrow["city"] = frame["city"].astype(str).astype("string")
    for other in [
        pl.from_pandas(frame.astype({"city": str})),
        pl.from_pandas(frame),
        objects,
        arrow,
        objects.to_numpy(),
        objects.to_numpy().tolist(),
        pa.Table.from_pandas(frame),
        pa.Table.from_pandas(frame.astype({"city": str})).to_batches()[0],
    ]:
        np.testing.assert_array_equal(TabularEncoder().fit_transform(other), expected)
        got = TabularEncoder().fit(other).transform(other)
        np.testing.assert_array_equal(got, expected)


def test_columns_are_found_by_name():
    frame, _ = mixed(80)
    encoder = TabularEncoder().fit(frame)
    expected = encoder.transform(frame)
    np.testing.assert_array_equal(encoder.transform(frame[frame.columns[::-1]]), expected)
    other = pl.from_pandas(frame.astype({"city": str}))
    np.testing.assert_array_equal(encoder.transform(other.select(sorted(other.columns))), expected)
    assert encoder.feature_names_in_.tolist() == list(frame.columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="size"), "it lacks column 'size'"),
        (lambda f: f.drop(columns=["size", "city"]), "it lacks columns 'size', 'city'"),
        (lambda f: f.assign(more=1), "it has column 'more' beside them"),
        (
            lambda f: f.rename(columns={"gap": "hole"}),
            "lacks column 'gap' and has column 'hole' beside them",
        ),
        (lambda f: pd.concat([f, f[["gap"]]], axis=1), "column 'gap' more than once"),
        (lambda f: f.to_numpy(dtype=object)[:, 1:], "X has 5 features, but TabularEncoder is"),
        (lambda f: f.iloc[:0], "at least one row"),
        (lambda f: f.assign(gap=np.inf), "column 'gap': .* got infinity in row 0"),
    ],
)
def test_a_table_of_other_columns_is_an_error(change, message):
    frame, _ = mixed(40)
    encoder = TabularEncoder().fit(frame)
    with pytest.raises(ValueError, match=message):
        encoder.transform(change(frame))


def test_many_columns_that_are_missing_are_counted():
    frame = pd.DataFrame(np.ones((3, 9)), columns=list("abcdefghi"))
    with pytest.raises(ValueError, match="'a', 'b', 'c', 'd', 'e' and 3 more"):
        TabularEncoder().fit(frame).transform(frame[["i"]])


def test_numbers_stay_numbers():
    frame, _ = mixed(40)
    encoder = TabularEncoder().fit(frame)
    with pytest.raises(TypeError, match="column 'size': expected numbers, as in fit, got 'large'"):
        encoder.transform(frame.assign(size="large"))
    gone = encoder.transform(frame.assign(size=pd.Series([None] * 40, dtype=object)))
    assert np.isfinite(gone).all()


@pytest.mark.parametrize(
    ("fitted", "new", "message"),
    [
        (["1", "2"], [1, 2], "expected categories such as '1', as in fit, got 1.0 in row 0"),
        (["1", "2"], ["1", None, 2.5], "'1', as in fit, got 2.5 in row 2"),
        (pd.Categorical([1, 2]), ["1", "2"], "such as 1, as in fit, got '1' in row 0"),
        ([b"a", b"b"], [True, False], "such as b'a', as in fit, got 1.0 in row 0"),
    ],
)
def test_texts_are_no_numbers_where_categories_are_looked_up(fitted, new, message):
    """They would all pass for categories that training has not seen."""
    encoder = TabularEncoder(min_frequency=1).fit(pd.DataFrame({"c": fitted}))
    with pytest.raises(TypeError, match=f"column 'c': .*{message}"):
        encoder.transform(pd.DataFrame({"c": new}))
    nothing = encoder.transform(pd.DataFrame({"c": [np.nan, np.nan]}))
    assert not nothing.any()


def test_texts_and_numbers_that_were_mixed_may_be_either():
    encoder = TabularEncoder(min_frequency=1).fit(np.array([["a"], [1]], dtype=object))
    assert encoder.transform(np.array([[1], [2]], dtype=object)).tolist() == [[1, 0], [0, 0]]


def test_columns_are_found_by_labels_that_are_no_texts():
    frame = pd.DataFrame({2019: [1.0, 2, 3], 2020: [5.0, 4, 6]})
    encoder = TabularEncoder(n_bins=0).fit(frame)
    expected = encoder.transform(frame)
    np.testing.assert_array_equal(encoder.transform(frame[[2020, 2019]]), expected)
    np.testing.assert_array_equal(encoder.transform(frame.to_numpy()), expected)
    with pytest.raises(ValueError, match="lacks column 2019 and has column 2021"):
        encoder.transform(frame.rename(columns={2019: 2021}))


def test_names_that_come_or_go_are_a_warning():
    frame, _ = mixed(40)
    array = frame.to_numpy(dtype=object)
    with pytest.warns(UserWarning, match="does not have valid feature names, but TabularEncoder"):
        TabularEncoder().fit(frame).transform(array)
    with pytest.warns(UserWarning, match="has feature names, but TabularEncoder was fitted with"):
        TabularEncoder().fit(array).transform(frame)


@pytest.mark.parametrize(
    "named",
    [["count", "flag"], [1, 2], pd.Index(["flag", "count"]), [False, True, True] + [False] * 3],
)
def test_numbers_that_are_categories(named):
    frame, _ = mixed(80)
    encoder = TabularEncoder(categorical_features=named).fit(frame)
    assert {type(c).__name__ for c in encoder.columns_[1:3]} == {"CategoricalColumn"}
    assert type(encoder.columns_[0]).__name__ == "NumericColumn"
    assert set(encoder.columns_[1].levels) == set(range(9))
    np.testing.assert_array_equal(
        encoder.transform(pl.from_pandas(frame)), encoder.transform(frame)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"categorical_features": ["none"]}, ValueError, r"categorical_features\[0\].*'none'"),
        ({"categorical_features": [6]}, ValueError, r"less than the 6 columns of X, got 6"),
        ({"categorical_features": [-1]}, ValueError, r"categorical_features\[0\]"),
        ({"categorical_features": "size"}, TypeError, "expected a list of names"),
        ({"n_bins": -1}, ValueError, "n_bins"),
        ({"n_bins": "many"}, ValueError, "n_bins"),
        ({"max_one_hot": -1}, ValueError, "max_one_hot"),
        ({"min_frequency": 0}, ValueError, "min_frequency"),
    ],
)
def test_bad_arguments_of_the_encoder(arguments, error, message):
    with pytest.raises(error, match=message):
        TabularEncoder(**arguments).fit(mixed(40)[0])


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (pd.DataFrame({"t": pd.date_range("2020", periods=3)}), TypeError, "'t'.*weekday, hour"),
        (pl.DataFrame({"t": pd.date_range("2020", periods=3)}), TypeError, "'t'.*weekday, hour"),
        (pa.table({"t": pd.date_range("2020", periods=3)}), TypeError, "'t'.*weekday, hour"),
        (pa.table({"t": [[1], [2]]}), TypeError, "'t'.*a value of type list"),
        (pa.table({"t": [1.0, np.inf]}), ValueError, "'t'.*infinity in row 1"),
        (pa.table({}), ValueError, "at least one"),
        (pl.DataFrame({"t": [1.0]}).lazy(), TypeError, "collect"),
        (pd.DataFrame({"t": [[1], [2]]}), TypeError, "'t'.*of type list"),
        (np.arange(3.0), ValueError, "Expected 2D array, got 1D"),
        (np.ones((3, 2), complex), ValueError, "Complex data not supported"),
        (np.ones((3, 0)), ValueError, r"0 feature\(s\)"),
        (np.array([["2020", "2021"]], dtype="datetime64[Y]"), TypeError, "datetime64"),
    ],
)
def test_what_is_no_table_of_numbers_and_categories(X, error, message):
    with pytest.raises(error, match=message):
        TabularEncoder().fit(X)


def test_sparse_rows_are_sent_elsewhere():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="MLPClassifier"):
        TabularEncoder().fit(sparse.csr_array(np.eye(3)))


# The network.


def recipe(**arguments):
    given = {
        "hidden_layer_sizes": [8, 8], "activation": "silu", "dropout": 0.0, "embedding_dim": 4,
        "lr": 0.04, "weight_decay": 0.0, "batch_size": 32, "cycles": 3,
        "first_cycle": 2,
        "loss": minidl.MSELoss(),
    }  # fmt: skip
    return network.Recipe(**{**given, **arguments})


def test_the_network_has_embeddings_beside_numbers_and_rates_by_fan_in():
    made = recipe()
    model = network.build(made, 5, [30, 4], 1, seed=0)
    width = 5 + 4 + 3  # an embedding has at most embedding_dim columns, or root + 1
    assert model[1].in_features == width
    assert not model[-1].weight.any()
    adam = network.optimizer(made, model)
    assert isinstance(model[3], minidl.Residual)
    names = ("0.1.weight", "1.weight", "3.block.0.weight", "1.bias", "4.bias")
    parameters = dict(model.named_parameters())
    rates = {name: adam.groups[adam.group_of(name, parameters[name]) - 1]["lr"] for name in names}
    assert rates == pytest.approx(
        {
            "0.1.weight": 0.02,
            "1.weight": 0.04 / np.sqrt(width),
            "3.block.0.weight": 0.04 / np.sqrt(8),
            "1.bias": 0.004,
            "4.bias": 0.004,
        }
    )


@pytest.mark.parametrize(("rows", "width"), [(999, 64), (1000, 96), (1999, 96), (2000, 128)])
def test_tables_of_few_rows_have_small_layers(rows, width):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    model = TabularRegressor(n_models=2, max_iter=1, random_state=0).fit(X, X[:, 0])
    widths = [layer.out_features for _, layer in model.models_[0].layers()
              if isinstance(layer, minidl.Linear)]  # fmt: skip
    assert widths == [width, width, 1]


def test_first_weights_keep_the_size_of_what_goes_through():
    model = network.build(recipe(hidden_layer_sizes=[400]), 300, [], 1, seed=0)
    assert model[0].weight.std() == pytest.approx(1 / np.sqrt(300), rel=0.02)
    assert model[0].bias.std() == pytest.approx(1, rel=0.1)


def losses(values, first_cycle=1):
    """Epochs that are made while validation gives these losses."""
    stop = network.CycleStopping(first_cycle, 3)
    stop.trainer = type("T", (), {"stop_training": False, "model": minidl.Linear(1, 1)})()
    stop.on_train_begin()
    for epoch, value in enumerate(values):
        stop.on_epoch_end(epoch, {"val_loss": value})
        if stop.trainer.stop_training:
            return epoch + 1, stop.best_epoch
    return len(values), stop.best_epoch


def test_training_ends_after_a_cycle_without_improvement():
    """Cycles are 1, 2 and 4 epochs long."""
    assert losses([3, 4, 5, 1, 1, 1, 1]) == (3, 0)
    assert losses([3, 4, 2, 4, 4, 4, 1]) == (7, 6)
    assert losses([3, 2, 4, 4, 4, 4, 1]) == (7, 6)
    assert losses([6, 6, 3, 4, 2, 2] + 8 * [9], first_cycle=2) == (14, 4)
    assert losses([1, 2, 3, 4, 5, 6, 0], first_cycle=2) == (6, 0)


def test_the_rate_goes_through_three_cycles():
    made = recipe(first_cycle=2)
    trainer = network.trainer_for(made, network.build(made, 3, [], 1, seed=0), rows=100)
    assert made.epochs == 14
    rates = trainer.scheduler.rates(1.0, first=0, count=4 * 14)
    tops = np.flatnonzero(rates == 1.0).tolist()
    assert tops == [0, 8, 24]  # 4 steps an epoch
    assert rates[-1] < 0.01


# The estimators.


def test_classes_of_a_mixed_table():
    frame, value = mixed(1500)
    y = np.array(["low", "middle", "high"])[np.digitize(value, [0, 1.5])]
    model = TabularClassifier(random_state=0).fit(frame[:1000], y[:1000])
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert model.score(frame[1000:], y[1000:]) > 0.9
    P = model.predict_proba(frame[1000:])
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=1e-6)
    assert (model.predict(frame[1000:]) == model.classes_[P.argmax(axis=1)]).all()
    numbers = frame.drop(columns=["color", "city"])
    less = TabularClassifier(random_state=0).fit(numbers[:1000], y[:1000])
    assert less.score(numbers[1000:], y[1000:]) < 0.85  # so that the categories were used


def test_values_of_a_mixed_table():
    frame, value = mixed(1500)
    model = TabularRegressor(random_state=0).fit(frame[:1000], value[:1000])
    assert model.score(frame[1000:], value[1000:]) > 0.95
    absent = frame.assign(gap=np.nan)[1000:]
    there = frame.assign(gap=0.0)[1000:]
    gain = model.predict(absent) - model.predict(there)
    assert np.median(gain) == pytest.approx(2, abs=0.3)  # the indicator


def test_units_of_the_target_do_not_matter():
    frame, value = mixed(300)
    one = TabularRegressor(**QUICK, random_state=0).fit(frame, value)
    other = TabularRegressor(**QUICK, random_state=0).fit(frame, 1e6 * value - 3e5)
    np.testing.assert_allclose(
        other.predict(frame), 1e6 * one.predict(frame) - 3e5, rtol=1e-3, atol=2e3
    )


def test_values_stay_within_those_of_training():
    x = np.linspace(-1, 1, 200)[:, None]
    model = TabularRegressor(n_models=1, random_state=0).fit(x, x[:, 0])
    got = model.predict([[50.0], [-50.0]])
    assert got.max() <= 1
    assert got.min() >= -1


def test_several_targets():
    frame, value = mixed(900)
    Y = np.column_stack([value, -100 * value, frame["size"]])
    model = TabularRegressor(random_state=0, n_models=2).fit(frame[:600], Y[:600])
    assert model.predict(frame[600:]).shape == (300, 3)
    assert model.score(frame[600:], Y[600:]) > 0.9
    assert TabularRegressor(**QUICK).fit(frame, Y[:, :1]).predict(frame).shape == (900, 1)


def test_constant_targets():
    frame, _ = mixed(50)
    model = TabularRegressor(**QUICK).fit(frame, np.full(50, 3.0))
    np.testing.assert_array_equal(model.predict(frame), 3.0)


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_small_data_sets_of_classes(name):
    X, y = {"iris": load_iris, "breast_cancer": load_breast_cancer}[name](return_X_y=True)
    assert cross_val_score(TabularClassifier(random_state=0), X, y, cv=5).mean() > 0.94


def test_diabetes():
    X, y = load_diabetes(return_X_y=True)
    assert cross_val_score(TabularRegressor(random_state=0), X, y, cv=5).mean() > 0.4


@pytest.mark.parametrize("n_threads", [1, 2, None])
def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads(n_threads):
    frame, value = mixed(400)
    one = TabularRegressor(n_models=3, max_iter=7, random_state=3, n_threads=1).fit(frame, value)
    other = clone(one).set_params(n_threads=n_threads).fit(frame, value)
    np.testing.assert_array_equal(other.predict(frame), one.predict(frame))
    different = clone(one).set_params(random_state=4).fit(frame, value)
    assert (different.predict(frame) != one.predict(frame)).any()


def test_models_differ_and_are_averaged():
    frame, value = mixed(400)
    model = TabularRegressor(**{**QUICK, "n_models": 3}, random_state=0).fit(frame, value)
    X = model.encoder_.transform(frame)
    each = [m.predict(X)[:, 0] * value.std() + value.mean() for m in model.models_]
    assert len({e.tobytes() for e in each}) == 3
    each = np.clip(each, value.min(), value.max())
    np.testing.assert_allclose(model.predict(frame), np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
    assert len(model.histories_) == len(model.validation_loss_) == 3
    assert model.n_iter_ == max(len(h) for h in model.histories_)


def test_each_model_has_the_weights_that_were_best_on_its_rows():
    frame, value = mixed(400)
    model = TabularRegressor(**{**QUICK, "n_models": 1}, random_state=0).fit(frame, value)
    curve = model.histories_[0].history["val_loss"]
    assert model.validation_loss_ == [min(curve)]
    random = np.random.RandomState(0)
    held_out = random.permutation(400)[::5]
    z = (value[held_out] - value.mean()) / value.std()
    out = model.models_[0].predict(model.encoder_.transform(frame.iloc[held_out]))[:, 0]
    assert np.mean((out - z) ** 2) == pytest.approx(min(curve), rel=1e-4)


def test_every_fold_has_its_share_of_each_class():
    y = np.repeat([0, 1, 2], [500, 50, 5])
    folds = TabularClassifier()._folds(555, 4, y, np.random.RandomState(0))
    counts = np.array([np.bincount(folds[y == k], minlength=5) for k in range(3)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_a_row_of_weight_0_is_not_there():
    frame, value = mixed(300)
    weight = np.where(np.arange(300) % 3 == 0, 0.0, 2.0)
    with_all = TabularRegressor(**QUICK, random_state=0).fit(frame, value, weight)
    kept = weight > 0
    without = TabularRegressor(**QUICK, random_state=0).fit(frame[kept], value[kept])
    np.testing.assert_allclose(
        with_all.predict(frame), without.predict(frame), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rows", [70, 90])
def test_weights_of_0_do_not_hide_rows_that_are_too_many(rows):
    frame, _ = mixed(80)
    with pytest.raises(ValueError, match=f"each of the 80 rows of X, got {rows}"):
        TabularRegressor().fit(frame, np.zeros(rows), np.arange(rows) % 3)


def test_weights_of_0_in_an_arrow_table():
    frame, value = mixed(80)
    table = pa.Table.from_pandas(frame)
    weight = np.arange(80) % 2
    fitted = [
        TabularRegressor(**QUICK, random_state=0).fit(X, value, weight) for X in (frame, table)
    ]
    np.testing.assert_array_equal(*(model.predict(frame) for model in fitted))


def test_weights_count():
    x = np.zeros((400, 1))
    x[::2] = 1
    y = np.where(np.arange(400) % 4 < 2, "a", "b")
    weight = np.where(y == "a", 9.0, 1.0)
    even = TabularClassifier(random_state=0, max_iter=7).fit(x, y).predict_proba(x)
    heavy = TabularClassifier(random_state=0, max_iter=7).fit(x, y, weight).predict_proba(x)
    assert even[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    assert heavy[:, 0].mean() == pytest.approx(0.9, abs=0.06)


def test_what_training_has_not_seen():
    frame, value = mixed(400)
    model = TabularRegressor(**QUICK, random_state=0).fit(frame, value)
    strange = frame.assign(color="violet", city=None, size=np.nan, flag=None)
    got = model.predict(strange)
    assert np.isfinite(got).all()
    unseen = model.predict(frame.assign(city="elsewhere"))
    all_cities = [model.predict(frame.assign(city=f"city {i}")) for i in range(30)]
    assert np.abs(unseen - np.mean(all_cities, axis=0)).max() < np.ptp(all_cities, axis=0).max()


def test_a_code_that_was_not_trained_gets_the_mean_vector():
    codes = np.arange(400) % 20
    X = np.array([f"c{code}" for code in codes], dtype=object)[:, None]
    model = TabularRegressor(**QUICK, random_state=0).fit(X, codes)
    table = model.models_[0][0][0].weight
    trained = np.ones(400, bool)
    trained[np.random.RandomState(0).permutation(400)[::5]] = False
    own = model.encoder_.transform(X[trained])[:, 0].astype(int)
    assert set(own) == set(range(1, 21))
    np.testing.assert_allclose(table[0], table[own].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_whole_columns_of_codes_alone():
    X = np.array([[f"c{i % 20}", f"d{i % 15}"] for i in range(600)], dtype=object)
    model = TabularRegressor(random_state=0).fit(X, np.arange(600.0) % 20)
    assert model.encoder_.n_dense_ == 0
    assert model.score(X, np.arange(600.0) % 20) > 0.9


def test_it_is_a_scikit_learn_estimator():
    frame, value = mixed(200)
    y = np.where(value > 0.5, "yes", "no")
    model = TabularClassifier(**QUICK, random_state=0)
    assert repr(clone(model)) == repr(model)
    assert model.get_params()["max_iter"] == 7
    pipeline = make_pipeline(clone(model))
    assert cross_val_score(pipeline, frame, y, cv=3).mean() > 0.6
    search = GridSearchCV(model, {"hidden_layer_sizes": [(8,), (16, 16)]}, cv=2).fit(frame, y)
    assert search.best_estimator_.n_features_in_ == 6
    np.testing.assert_array_equal(
        search.best_estimator_.feature_names_in_, np.array(frame.columns, dtype=object)
    )


@pytest.mark.parametrize("estimator", [TabularClassifier, TabularRegressor])
def test_pickles_predict_the_same(estimator):
    frame, value = mixed(200)
    y = value if estimator is TabularRegressor else value > 0.5
    model = estimator(**QUICK, random_state=0).fit(frame, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))


def test_fitting_anew_forgets():
    frame, value = mixed(200)
    model = TabularRegressor(**QUICK, random_state=0).fit(frame, value)
    model.fit(np.arange(200.0)[:, None], value)
    assert model.n_features_in_ == 1
    assert not hasattr(model, "feature_names_in_")


def test_a_failed_fit_changes_nothing(monkeypatch):
    frame, value = mixed(200)
    y = value > 0.5
    model = TabularClassifier(**QUICK, random_state=0).fit(frame, y)
    before, attributes = model.predict_proba(frame), dict(model.__dict__)
    with pytest.raises(ValueError, match="expected one y for each of the 200 rows"):
        model.fit(frame, y[:100])
    with pytest.raises(ValueError, match="one class"):
        model.fit(frame, ["a"] * 200)

    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(network.CycleStopping, "on_epoch_end", broken)
    with pytest.raises(RuntimeError, match="broken"):
        model.fit(frame[["size"]], np.arange(200) % 3)
    assert model.__dict__ == attributes
    np.testing.assert_array_equal(model.predict_proba(frame), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_models": 0}, "n_models"),
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes\[1\]"),
        ({"hidden_layer_sizes": (1, 2, 3, 4, 5)}, "at most 4 different sizes"),
        ({"activation": "relo"}, "relu|ReLU"),
        ({"dropout": 1.0}, "dropout"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"learning_rate_init": 0}, "learning_rate_init"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "big"}, "batch_size"),
        ({"max_iter": 0}, "max_iter"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_bins": -1}, "n_bins"),
        ({"hidden_layer_sizes": 8.0}, "hidden_layer_sizes: expected a size or a list"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes: expected a size or a list"),
        ({"hidden_layer_sizes": "big"}, "hidden_layer_sizes"),
    ],
)
def test_bad_arguments(arguments, message):
    frame, value = mixed(40)
    with pytest.raises(ValueError, match=message):
        TabularRegressor(**{**QUICK, **arguments}).fit(frame, value)


def test_bad_targets():
    frame, value = mixed(40)
    with pytest.raises(ValueError, match="at least two classes, got one class: 'a'"):
        TabularClassifier().fit(frame, ["a"] * 40)
    with pytest.raises(ValueError, match="NaN"):
        TabularRegressor().fit(frame, np.where(value > 0, value, np.nan))
    with pytest.raises(ValueError, match="at least two rows"):
        TabularRegressor().fit(frame[:1], value[:1])
    with pytest.raises(ValueError, match="Negative values"):
        TabularRegressor().fit(frame, value, -np.ones(40))


@pytest.mark.parametrize(
    "labels",
    [
        pd.Categorical(["a", "b", None, "a"]),
        pd.Series(["a", "b", pd.NA, "a"], dtype="string"),
        np.array(["a", "b", None, "a"], dtype=object),
    ],
)
def test_a_label_that_is_missing(labels):
    with pytest.raises(ValueError, match=r"y: expected a label for each row, got .* in row 2"):
        TabularClassifier().fit(np.arange(4.0)[:, None], labels)


@pytest.mark.parametrize("factor", [1e-300, 1e155, 1e300])
def test_targets_of_any_size(factor):
    frame, value = mixed(200)
    got = TabularRegressor(**QUICK, random_state=0).fit(frame, value * factor).predict(frame)
    expected = TabularRegressor(**QUICK, random_state=0).fit(frame, value).predict(frame)
    np.testing.assert_allclose(got / factor, expected, rtol=1e-3, atol=1e-3)


def test_equal_targets_have_no_spread():
    frame, _ = mixed(40)
    assert TabularRegressor(**QUICK).fit(frame, np.full(40, 0.1))._scale.tolist() == [0.1]


@pytest.mark.parametrize("column", [[1.0] * 40, [f"id {i}" for i in range(40)]])
def test_tables_that_tell_no_rows_apart(column):
    with pytest.raises(ValueError, match="X: expected a column that tells rows apart"):
        TabularRegressor().fit(pd.DataFrame({"a": column}), np.arange(40.0))


@pytest.mark.parametrize(("max_iter", "most"), [(1, 1), (6, 6), (7, 7), (13, 7), (20, 14)])
def test_max_iter_is_the_most(max_iter, most):
    frame, value = mixed(60)
    model = TabularRegressor(1, 8, max_iter=max_iter, random_state=0).fit(frame, value)
    assert model.n_iter_ <= most
    assert model._recipe(60).epochs == most


@pytest.mark.parametrize("rows", [2, 3, 6])
def test_very_few_rows(rows):
    frame, value = mixed(rows)
    assert np.isfinite(TabularRegressor(**QUICK).fit(frame, value).predict(frame)).all()
    y = np.arange(rows) % 2
    assert set(TabularClassifier(**QUICK).fit(frame, y).predict(frame)) <= {0, 1}


def test_an_error_in_one_model_ends_the_others(monkeypatch):
    frame, value = mixed(200)
    made = []

    def broken(callback, *rest):
        made.append(callback.trainer)
        raise RuntimeError("broken")

    monkeypatch.setattr(network.CycleStopping, "on_epoch_end", broken)
    with pytest.raises(RuntimeError, match="broken"):
        TabularRegressor(n_models=8, n_threads=1).fit(frame, value)
    assert len(made) < 8


def test_other_threads_keep_their_limit():
    before = minidl.get_num_threads()
    frame, value = mixed(100)
    TabularRegressor(**QUICK).fit(frame, value)
    assert minidl.get_num_threads() == before


REASON = "rows are drawn into batches, where a row of weight 2 is not two rows"


@parametrize_with_checks(
    [TabularClassifier(**QUICK), TabularRegressor(**QUICK), TabularEncoder()],
    expected_failed_checks=lambda estimator: (
        {}
        if isinstance(estimator, TabularEncoder)
        else {"check_sample_weight_equivalence_on_dense_data": REASON}
    ),
)
def test_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)

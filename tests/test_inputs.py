"""Wrong input is an error of the right type that names the argument; nothing has been changed."""

import numpy as np
import pytest

import minidl

ROWS, FEATURES, CLASSES = 6, 3, 4


def good():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, FEATURES)), rng.integers(0, CLASSES, ROWS)


def make(dtype="float32"):
    return minidl.Sequential(
        minidl.Linear(FEATURES, 5),
        minidl.BatchNorm1d(5),
        minidl.ReLU(),
        minidl.Linear(5, CLASSES),
        dtype=dtype,
        seed=0,
    )


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def with_value(array, row, column, value):
    array = np.array(array, np.float64)
    array[row, column] = value
    return array


X, Y = good()

BAD_X = {
    "too few features": (X[:, :2], ValueError, r"expected 3 features \(columns\), got shape "
                         r"\(6, 2\)"),
    "too many features": (np.zeros((6, 4)), ValueError, r"expected 3 features .* \(6, 4\)"),
    "one dimension": (X[0], ValueError, r"expected 2 dimensions .* got shape \(3,\)"),
    "three dimensions": (X[None], ValueError, r"expected 2 dimensions .* \(1, 6, 3\)"),
    "a number": (1.0, ValueError, r"expected 2 dimensions .* got shape \(\)"),
    "None": (None, TypeError, "expected real numbers, got dtype object"),
    "complex": (X.astype(complex), TypeError, "expected real numbers, got dtype complex128"),
    "object": (X.astype(object), TypeError, "expected real numbers, got dtype object"),
    "strings": (X.astype(str), TypeError, "expected real numbers, got dtype <U"),
    "bytes": (X.astype("S"), TypeError, r"expected real numbers, got dtype \|S"),
    "dates": (np.zeros((6, 3), "M8[s]"), TypeError, "expected real numbers, got dtype datetime64"),
    "records": (np.zeros((6, 3), "f4,f4"), TypeError, "expected real numbers"),
    "ragged": ([[1, 2, 3], [1, 2]], ValueError, "expected an array, got rows of different"),
    "long double": (X.astype(np.longdouble), TypeError, "expected at most float64, got dtype "),
    "NaN": (with_value(X, 4, 1, np.nan), ValueError, "expected finite numbers, got nan in row 4, "
            "column 1"),
    "infinity": (with_value(X, 0, 2, np.inf), ValueError, "got inf in row 0, column 2"),
    "minus infinity": (with_value(X, 5, 0, -np.inf), ValueError, "got -inf in row 5, column 0"),
    "the first of two": (with_value(with_value(X, 3, 1, np.nan), 2, 2, np.inf), ValueError,
                         "got inf in row 2, column 2"),
    "float32 NaN": (with_value(X, 4, 1, np.nan).astype(np.float32), ValueError,
                    "got nan in row 4, column 1"),
    "float16 infinity": (with_value(X, 4, 1, np.inf).astype(np.float16), ValueError,
                         "got inf in row 4, column 1"),
    "too large for float32": (with_value(X, 1, 1, 1e39), ValueError, "X as float32: expected "
                              "finite numbers, got inf in row 1, column 1"),
}  # fmt: skip

BAD_Y = {
    "too few": (Y[:4], ValueError, r"expected 6 rows, as many as X has, got shape \(4,\)"),
    "too many": (np.zeros(7, int), ValueError, r"expected 6 rows, .* \(7,\)"),
    "too large": (np.array([0, 1, 4, 0, 0, 9]), ValueError, "expected labels from 0 to 3, got 4 in "
                  "row 2"),
    "negative": (np.array([0, 1, 2, 3, -1, 0]), ValueError, "labels from 0 to 3, got -1 in row 4"),
    "huge": (np.array([2**63] * 6, np.uint64), ValueError, f"got {2**63} in row 0"),
    "floats": (Y.astype(float), TypeError, "expected integer class labels, got dtype float64"),
    "complex": (Y.astype(complex), TypeError, "expected real numbers, got dtype complex128"),
    "strings": (Y.astype(str), TypeError, "expected real numbers, got dtype <U"),
    "None": (None, TypeError, "expected real numbers, got dtype object"),
    "a number": (1, ValueError, r"expected labels of shape \(rows,\), got shape \(\)"),
    "three dimensions": (np.zeros((6, 4, 1)), ValueError, r"got shape \(6, 4, 1\)"),
    "ragged": ([[1], [1, 2], [1], [1], [1], [1]], ValueError, "expected an array, got rows of "),
    "integers in columns": (np.eye(4, dtype=int)[Y], TypeError, "class probabilities of a floating "
                            r"dtype, got shape \(6, 4\), int64"),
    "probabilities of other classes": (np.ones((6, 3)) / 3, ValueError, r"shape \(rows, 4\), got "
                                       r"shape \(6, 3\)"),
    "negative probability": (with_value(np.ones((6, 4)), 1, 1, -0.5), ValueError, "expected "
                             "probabilities, got -0.5"),
    "NaN probability": (with_value(np.ones((6, 4)), 1, 2, np.nan), ValueError, "got nan in row 1, "
                        "column 2"),
}  # fmt: skip

BAD_TARGETS = {
    "too few columns": (np.zeros((6, 3)), r"expected shape \(rows, 4\), got shape \(6, 3\)"),
    "one dimension": (np.zeros(6), r"expected shape \(rows, 4\), got shape \(6,\)"),
    "too few rows": (np.zeros((5, 4)), r"expected 6 rows, as many as X has, got shape \(5, 4\)"),
    "NaN": (with_value(np.zeros((6, 4)), 3, 2, np.nan), "got nan in row 3, column 2"),
    "too large": (with_value(np.zeros((6, 4)), 3, 2, 1e300), "y as float32: .* row 3, column 2"),
}

USES = {
    "fit": lambda t, x, y: t.fit(x, y),
    "train_step": lambda t, x, y: t.train_step(x, y),
    "evaluate": lambda t, x, y: t.evaluate(x, y),
}


def assert_refused(use, error, message, model):
    """The error comes, and the model is as it was: values, and the bits of what it says."""
    before, modes = bits(model), [layer.training for _, layer in model.layers()]
    with pytest.raises(error, match=message):
        use()
    assert bits(model) == before
    assert [layer.training for _, layer in model.layers()] == modes


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", BAD_X)
def test_wrong_X(case, use):
    x, error, message = BAD_X[case]
    trainer = minidl.Trainer(make())
    prefix = "" if message.startswith("X") else "X: "
    assert_refused(lambda: USES[use](trainer, x, Y), error, f"^{prefix}.*{message}", trainer.model)
    assert trainer.optimizer._state is None


@pytest.mark.parametrize("use", ["forward", "predict", "__call__"])
@pytest.mark.parametrize("case", BAD_X)
def test_wrong_x_of_a_model(case, use):
    x, error, message = BAD_X[case]
    model = make()
    message = message.replace("X as", "x as")
    assert_refused(lambda: getattr(model, use)(x), error, message, model)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", BAD_Y)
def test_wrong_labels(case, use):
    y, error, message = BAD_Y[case]
    trainer = minidl.Trainer(make())
    assert_refused(lambda: USES[use](trainer, X, y), error, f"^y: .*{message}", trainer.model)


@pytest.mark.parametrize("loss", [minidl.MSELoss, minidl.BCEWithLogitsLoss])
@pytest.mark.parametrize("case", BAD_TARGETS)
def test_wrong_targets(case, loss):
    y, message = BAD_TARGETS[case]
    trainer = minidl.Trainer(make(), loss())
    assert_refused(
        lambda: trainer.fit(X, y), ValueError, f"^y.*{message.removeprefix('y')}", trainer.model
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, 2])
def test_targets_of_the_binary_loss_lie_in_0_to_1(value):
    trainer = minidl.Trainer(make(), minidl.BCEWithLogitsLoss())
    y = with_value(np.zeros((6, 4)), 1, 1, value)
    assert_refused(
        lambda: trainer.fit(X, y),
        ValueError,
        r"^y: expected targets in \[0, 1\], got",
        trainer.model,
    )


@pytest.mark.parametrize("loss", [lambda z, y: (0.0, 0 * z), minidl.MSELoss()])
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.full((6, 4), np.nan), ValueError, "got nan in row 0, column 0"),
        (np.zeros((5, 4)), ValueError, "expected 6 rows"),
        (np.zeros((6, 4), object), TypeError, "got dtype object"),
        ([[1], [1, 2]], ValueError, "rows of different lengths"),
        (1.0, ValueError, r"got shape \(\)"),
        (np.zeros((6, 4, 1)), ValueError, r"got shape \(6, 4, 1\)"),
    ],
)
def test_wrong_targets_of_functions(loss, y, error, message):
    trainer = minidl.Trainer(make(), loss)
    assert_refused(lambda: trainer.fit(X, y), error, f"^y: .*{message}", trainer.model)


@pytest.mark.parametrize("use", USES)
def test_no_rows(use):
    trainer = minidl.Trainer(make())
    assert_refused(
        lambda: USES[use](trainer, X[:0], Y[:0]),
        ValueError,
        r"^X: expected at least one row, got shape \(0, 3\)",
        trainer.model,
    )
    assert trainer.model.predict(X[:0]).shape == (0, CLASSES)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((X, Y[:3]), "^validation_data y: expected 6 rows"),
        ((X[:, :1], Y), "^validation_data X: expected 3 features"),
        ((with_value(X, 1, 0, np.nan), Y), "^validation_data X: .* got nan in row 1, column 0"),
        ((X[:0], Y[:0]), "^validation_data X: expected at least one row"),
        ((X,), r"^validation_data: expected \(X, y\)"),
        (X, r"^validation_data: expected \(X, y\)"),
    ],
)
def test_wrong_validation_data(validation, message):
    trainer = minidl.Trainer(make())
    assert_refused(
        lambda: trainer.fit(X, Y, validation_data=validation), ValueError, message, trainer.model
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({name: value}, f"^{name}: expected an integer of at least {least}, got {value!r}")
          for name, least in (("epochs", 0), ("batch_size", 1), ("seed", 0))
          for value in (-1, 1.5, "3", True)),
        ({"batch_size": 0}, "^batch_size: expected an integer of at least 1, got 0"),
        ({"epochs": None}, "^epochs: expected an integer"),
        ({"verbose": 2}, "^verbose: expected 'auto', 0 or 1, got 2"),
        ({"verbose": "yes"}, "^verbose: expected 'auto', 0 or 1, got 'yes'"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_fit(arguments, message):
    trainer = minidl.Trainer(make())
    assert_refused(lambda: trainer.fit(X, Y, **arguments), ValueError, message, trainer.model)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "a", False])
def test_wrong_batch_size(batch_size):
    trainer = minidl.Trainer(make())
    for use in (
        lambda: trainer.evaluate(X, Y, batch_size=batch_size),
        lambda: trainer.model.predict(X, batch_size=batch_size),
    ):
        assert_refused(
            use, ValueError, "^batch_size: expected an integer of at least 1", trainer.model
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: minidl.Trainer("model"), TypeError, "^model: expected a Layer, got str"),
        (lambda: minidl.Trainer(minidl.Linear), TypeError, "^model: expected a Layer, got type"),
        (lambda: minidl.Trainer(make(), 3), TypeError, "^loss: expected a Loss or a function"),
        (lambda: minidl.Trainer(make(), minidl.MSELoss), TypeError, "^loss: expected a Loss"),
        (lambda: minidl.Trainer(make(), None, 3), TypeError, "^optimizer: expected an Optim"),
        (lambda: minidl.Trainer(make(), None, minidl.Adam), TypeError, "^optimizer: .* got <class"),
        (lambda: minidl.Sequential("relu"), TypeError, "^layers: expected Layer objects, got str"),
        (lambda: minidl.Sequential(minidl.ReLU), TypeError, "^layers: expected .* got type at 0"),
        (lambda: minidl.Sequential([minidl.ReLU()]), TypeError, "^layers: .* got list at 0"),
        (lambda: minidl.Sequential(minidl.Linear(2, 3), minidl.ReLU(), minidl.Linear(4, 1)),
         ValueError, r"layer 2 \(Linear\) expects 4 features, the one before it gives 3"),
        (lambda: minidl.Sequential(minidl.Linear(2, 3), minidl.BatchNorm1d(2)), ValueError,
         r"layer 1 \(BatchNorm1d\) expects 2 features, the one before it gives 3"),
        (lambda: minidl.Sequential(minidl.Linear(2, 3, dtype="float64"), minidl.Linear(3, 1)),
         ValueError, "^layers: expected one dtype, got float32 and float64"),
        (lambda: minidl.Sequential(dtype="float16"), ValueError, "^dtype: expected 'float32' or"),
        (lambda: minidl.Linear(2, 3, dtype=int), ValueError, "^dtype: expected 'float32' or"),
        (lambda: minidl.Linear(2, 3, dtype="no"), ValueError, "^dtype: expected .* got 'no'"),
        (lambda: minidl.Linear(-1, 3), ValueError, "^in_features: expected an integer of at least"),
        (lambda: minidl.Linear(2, 0), ValueError, "^out_features: expected an integer of at least"),
        (lambda: minidl.Linear(2.0, 3), ValueError, "^in_features: .* got 2.0"),
        (lambda: minidl.Linear(2, 3, weight_init="he"), ValueError, "^weight_init: expected one"),
        (lambda: minidl.Linear(2, 3, bias_init="he"), ValueError, "^bias_init: expected one of"),
        (lambda: minidl.BatchNorm1d(0), ValueError, "^num_features: expected an integer of at"),
        (lambda: minidl.BatchNorm1d(3, eps=0), ValueError, r"^eps: expected a number in \(0, inf"),
        (lambda: minidl.BatchNorm1d(3, momentum=1.1), ValueError, r"^momentum: .* \[0, 1\]"),
        (lambda: minidl.Dropout(1.5), ValueError, r"^p: expected a number in \[0, 1\], got 1.5"),
        (lambda: minidl.Dropout(np.nan), ValueError, "^p: expected a number .* got nan"),
        (lambda: minidl.LeakyReLU(-1), ValueError, "^negative_slope: expected a number"),
        (lambda: minidl.ELU("1"), ValueError, "^alpha: expected a number .* got '1'"),
        (lambda: minidl.GELU("erf"), ValueError, "^approximate: expected 'none' or 'tanh'"),
        (lambda: minidl.Softplus(0), ValueError, "^beta: expected a number"),
        *((lambda o=o, v=v: o(lr=v), ValueError, r"^lr: expected a number in \[0, inf\), got")
          for o in (minidl.SGD, minidl.Adam, minidl.AdamW)
          for v in (-0.1, np.nan, np.inf, "1", None, True, 1j)),
        (lambda: minidl.SGD(momentum=1.0), ValueError, r"^momentum: expected a number in \[0, 1\)"),
        (lambda: minidl.SGD(nesterov=True), ValueError, "^nesterov: expected False, since momentu"),
        (lambda: minidl.Adam(betas=(0.9, 1.0)), ValueError, r"^betas\[1\]: expected a number"),
        (lambda: minidl.Adam(betas=0.9), ValueError, "^betas: expected two numbers, got 0.9"),
        (lambda: minidl.Adam(eps=0.0), ValueError, "^eps: expected a number"),
        (lambda: minidl.AdamW(weight_decay=-1), ValueError, "^weight_decay: expected a number"),
        (lambda: minidl.MSELoss()(np.zeros((2, 2)), np.zeros((2, 3))), ValueError, "^y: expected "),
        (lambda: minidl.MSELoss()(np.zeros((0, 2)), np.zeros((0, 2))), ValueError, "^prediction: "),
        (lambda: minidl.MSELoss()([[np.nan]], [[0.0]]), ValueError, "^prediction: .* row 0, col"),
        (lambda: minidl.MSELoss().backward(), RuntimeError, "call forward first"),
        (lambda: minidl.ReLU().backward(X), RuntimeError, "call forward first"),
    ],
)  # fmt: skip
def test_wrong_arguments_elsewhere(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (np.zeros((5, CLASSES)), ValueError, r"^dy: expected shape \(6, 4\), got \(5, 4\)"),
        (np.zeros((6, 3)), ValueError, "^dy: expected 4 features"),
        (np.full((6, CLASSES), np.nan), ValueError, "^dy: .* got nan in row 0, column 0"),
        (np.zeros((6, CLASSES), complex), TypeError, "^dy: expected real numbers"),
    ],
)
def test_wrong_gradients(dy, error, message):
    model = make()
    model.forward(X)
    assert_refused(lambda: model.backward(dy), error, message, model)


def test_a_parameter_keeps_its_shape():
    model = make()
    before = bits(model)
    with pytest.raises(ValueError, match=r"^weight: expected shape \(5, 3\), got \(3, 5\)"):
        model[0].weight = np.zeros((3, 5))
    assert bits(model) == before
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'wieght'"):
        model[0].wieght  # noqa: B018


# What is converted.


def pandas_frame(x):
    return pytest.importorskip("pandas").DataFrame(x)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


CONVERSIONS = {
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "uint16": lambda x: x.astype(np.uint16),
    "bool": lambda x: x.astype(bool),
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x,
    "big-endian": lambda x: x.astype(">f8"),
    "big-endian float32": lambda x: x.astype(">f4"),
    "big-endian int": lambda x: x.astype(">i2"),
    "list": lambda x: x.tolist(),
    "tuple of arrays": lambda x: tuple(x),
    "frame": pandas_frame,
    "read-only": read_only,
    "read-only float32": lambda x: read_only(x.astype(np.float32)),
    "Fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape))[1],
    "unaligned": lambda x: np.frombuffer(b"-" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(
        x.shape),
    "a field of records": lambda x: np.rec.fromarrays(
        [x.astype(np.float32), np.zeros(x.shape, np.int8)])["f0"],
    "subclass": lambda x: np.ma.masked_array(x),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_what_is_converted(kind, dtype):
    """0 and 1 are the same in every dtype; the caller's array is not written to."""
    x = (X > 0).astype(np.float64)
    given = CONVERSIONS[kind](x)
    kept = np.array(given)
    plain, converted = make(dtype), make(dtype)
    a = minidl.Trainer(plain).fit(x, Y, epochs=2, batch_size=4, seed=0)
    b = minidl.Trainer(converted).fit(given, Y, epochs=2, batch_size=4, seed=0)
    assert bits(plain) == bits(converted)
    assert a.history == b.history
    assert converted.predict(given).tobytes() == plain.predict(x).tobytes()
    assert converted.forward(given).dtype == dtype
    np.testing.assert_array_equal(np.array(given), kept)


LABELS = {
    "int8": lambda y: y.astype(np.int8),
    "uint64": lambda y: y.astype(np.uint64),
    "big-endian": lambda y: y.astype(">i4"),
    "list": lambda y: y.tolist(),
    "column": lambda y: y[:, None],
    "every second": lambda y: np.repeat(y, 2)[::2],
    "backwards": lambda y: y[::-1].copy()[::-1],
    "read-only": read_only,
    "series": lambda y: pytest.importorskip("pandas").Series(y, index=range(100, 106)),
    "one-hot probabilities": lambda y: np.eye(CLASSES)[y],
}


@pytest.mark.parametrize("kind", LABELS)
def test_which_labels_are_converted(kind):
    trainer = minidl.Trainer(make())
    wanted = trainer.evaluate(X, Y)
    assert trainer.evaluate(X, LABELS[kind](Y)) == pytest.approx(wanted, rel=1e-6)


def test_booleans_are_labels_of_two_classes():
    model = minidl.Sequential(minidl.Linear(FEATURES, 2), seed=0)
    assert minidl.Trainer(model).evaluate(X, Y > 1) == minidl.Trainer(model).evaluate(
        X, (Y > 1).astype(int)
    )


def test_targets_of_one_column_may_be_flat():
    model = minidl.Sequential(minidl.Linear(FEATURES, 1), seed=0)
    for loss in (minidl.MSELoss(), minidl.BCEWithLogitsLoss()):
        trainer = minidl.Trainer(model, loss)
        assert trainer.evaluate(X, Y > 1) == trainer.evaluate(X, (Y > 1)[:, None])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_values_are_no_errors(dtype):
    """A sum that overflows is not an infinite number; what float64 holds, float64 may be."""
    largest = np.finfo(dtype).max
    model = minidl.Sequential(minidl.Identity(), dtype=dtype)
    x = np.full((4, 2), largest, dtype)
    np.testing.assert_array_equal(model.predict(x), x)


def test_numpy_integers_are_integers():
    trainer = minidl.Trainer(make())
    assert len(trainer.fit(X, Y, epochs=np.int64(2), batch_size=np.int32(3), seed=np.uint8(1))) == 2
    minidl.Linear(np.int64(2), np.int16(3))
    minidl.Adam(lr=np.float32(0.1), betas=[np.float64(0.5), 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: minidl.layers.activation("rellu"), "^activation: .* did you mean 'ReLU'"),
        (lambda: minidl.layers.activation(3), "^activation: expected one of ELU, .* got 3"),
        (lambda: minidl.losses.by_name("mse"), "^loss: .* got 'mse'; did you mean 'MSELoss'"),
        (lambda: minidl.optimizers.by_name("admw"), "^optimizer: .* did you mean 'AdamW'"),
        (lambda: minidl.Trainer(minidl.ReLU(), "huber"), "^loss: .* did you mean 'HuberLoss'"),
        (lambda: minidl.Trainer(minidl.ReLU(), optimizer="rms"), "^optimizer: .* 'RMSprop'"),
        (lambda: minidl.Linear(2, 3, weight_init="kaiming"), "^weight_init: .* 'kaiming_"),
    ],
)  # fmt: skip
def test_unknown_names_get_the_nearest_known(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_stand_for_defaults():
    trainer = minidl.Trainer(minidl.Linear(2, 3), "crossentropyloss", "ADAMW")
    assert repr(trainer.loss) == "CrossEntropyLoss()"
    assert repr(trainer.optimizer) == repr(minidl.AdamW())
    assert repr(minidl.layers.activation("elu", alpha=0.5)) == "ELU(alpha=0.5)"

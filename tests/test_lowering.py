"""When programs are kept, and that lowering for a mode leaves the layers' flags alone."""

import threading

import numpy as np
import pytest

import minidl

X = np.random.default_rng(0).standard_normal((50, 4), np.float32)


def network():
    return minidl.Sequential(
        minidl.Linear(4, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(0.5),
        minidl.Linear(8, 2), seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [minidl.ReLU, minidl.Dropout, minidl.Sequential, lambda: minidl.Linear(4, 2), network]
)
def test_a_program_is_kept(make):
    layer = make()
    layer(X)
    first = layer._program
    layer(X[:20])
    assert layer._program is first
    layer.predict(X)
    first = layer._predictor[1]
    layer.predict(X)
    assert layer._predictor[1] is first


def test_layers_without_parameters_take_any_dtype():
    layer = minidl.Tanh()
    single = layer(X)
    layer.set_dtype(np.dtype("float64"))
    assert (single.dtype, layer(X).dtype) == ("float32", "float64")


def test_a_change_of_mode_makes_a_new_program():
    model = network()
    training = model(X)
    assert not np.array_equal(model.eval()(X), training)
    assert np.array_equal(model(X), model.predict(X))


def test_layers_may_be_in_different_modes():
    model = network()
    model[3].eval()
    bn = model[1]
    assert np.array_equal(model(X), model[4](model[2](minidl.BatchNorm1d(8)(model[0](X)))))
    assert bn.num_batches_tracked == 1


class Watched(minidl.BatchNorm1d):
    """Notes every assignment of the flag."""

    def __setattr__(self, name, value):
        if name == "training":
            self.__dict__.setdefault("flags", []).append(value)
        super().__setattr__(name, value)


def test_predict_leaves_the_flags_alone():
    layer = Watched(4)
    layer.flags.clear()
    assert np.array_equal(layer.predict(X), minidl.BatchNorm1d(4).predict(X))
    assert layer.flags == []
    assert layer.training


class Spy(minidl.Layer):
    """Notes the mode in which it is called."""

    modes: list[bool]

    def forward(self, x):
        self.modes.append(self.training)
        return x


def test_layers_in_python_see_the_mode():
    spy = Spy()
    spy.modes = []
    model = minidl.Sequential(minidl.Linear(4, 2), spy)
    model.predict(X)
    model(X)
    assert spy.modes == [False, True]


def test_predict_from_threads_while_in_training_mode():
    """The layer-by-layer path goes on in training mode, and all predictions are the same."""
    model = network()
    expected = model.predict(X)
    wrong = []

    def predict():
        for _ in range(50):
            if not np.array_equal(model.predict(X), expected):
                wrong.append("prediction")
            if not all(layer.training for _, layer in model.tree()):
                wrong.append("flag")

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

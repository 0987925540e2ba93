"""The NumPy baseline against finite differences and against PyTorch, in float64."""

import math

import numpy as np
import pytest
from helpers import losses, torch_scalars

from minidl import numpy_baseline as baseline

ACTIVATIONS = [
    ("ReLU", {}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("LeakyReLU", {"negative_slope": 1.5}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.7}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("SiLU", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Softplus", {}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}),
]
activations = pytest.mark.parametrize(
    ("name", "params"), ACTIVATIONS, ids=[f"{n}{list(p.values()) or ''}" for n, p in ACTIVATIONS]
)
OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"betas": (0.8, 0.99), "weight_decay": 0.3}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.5, "centered": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def batchnorm_inputs(rng, rows=9, size=4):
    gamma, beta, mean = rng.normal(size=(3, size))
    return rng.normal(2, 3, (rows, size)), gamma, beta, mean, rng.uniform(0.5, 2, size)


def assert_is_gradient(gradient, function, x, h=1e-5):
    """Compare with central differences of the scalar function in every element of x."""
    expected = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        expected[i] = (function(x + step) - function(x - step)) / (2 * h)
    np.testing.assert_allclose(gradient, expected, rtol=5e-6, atol=1e-9)


def close(ours, theirs, rtol=1e-10, atol=1e-10):
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def test_linear_gradients(rng):
    x, w, b, dy = (rng.normal(size=s) for s in [(6, 3), (4, 3), (4,), (6, 4)])
    dx, dw, db = baseline.linear_backward(dy, x, w)
    assert_is_gradient(dx, lambda v: np.vdot(dy, baseline.linear_forward(v, w, b)), x)
    assert_is_gradient(dw, lambda v: np.vdot(dy, baseline.linear_forward(x, v, b)), w)
    assert_is_gradient(db, lambda v: np.vdot(dy, baseline.linear_forward(x, w, v)), b)
    close(baseline.linear_forward(x, w) + b, baseline.linear_forward(x, w, b))


def test_batchnorm_gradients(rng):
    x, gamma, beta, *_ = batchnorm_inputs(rng)
    dy = rng.normal(size=x.shape)

    def output(x, gamma, beta):
        return baseline.batchnorm_forward(x, gamma, beta, np.zeros(4), np.ones(4))

    def total(*args):
        return np.vdot(dy, output(*args)[0])

    dx, dgamma, dbeta = baseline.batchnorm_backward(dy, x, *output(x, gamma, beta)[1:], gamma)
    assert_is_gradient(dx, lambda v: total(v, gamma, beta), x)
    assert_is_gradient(dgamma, lambda v: total(x, v, beta), gamma)
    assert_is_gradient(dbeta, lambda v: total(x, gamma, v), beta)


def test_batchnorm_refuses_one_row(rng):
    with pytest.raises(ValueError, match="one row"):
        baseline.batchnorm_forward(*batchnorm_inputs(rng, rows=1))


@activations
def test_activation_gradients(name, params, rng):
    forward, backward = baseline.ACTIVATIONS[name]
    x = rng.normal(0, 2, (8, 5))
    x[np.abs(x) < 1e-3] = 0.5  # differences do not straddle the kink
    dy = rng.normal(size=x.shape)
    dx = backward(dy, x, forward(x, **params), **params)
    assert_is_gradient(dx, lambda v: np.vdot(dy, forward(v, **params)), x)


@activations
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_keeps_dtype_and_arguments(name, params, dtype, rng):
    forward, backward = baseline.ACTIVATIONS[name]
    x, dy = rng.normal(size=(2, 40, 9))
    y = forward(x, **params)
    dx = backward(dy, x, y, **params)
    x_, dy_ = x.astype(dtype), dy.astype(dtype)
    y_ = forward(x_, **params)
    dx_ = backward(dy_, x_, y_, **params)
    assert y_.dtype == dx_.dtype == dtype
    close(y_, y, 2e-6, 2e-6)
    close(dx_, dx, 2e-6, 2e-6)
    np.testing.assert_array_equal(x_, x.astype(dtype))
    np.testing.assert_array_equal(dy_, dy.astype(dtype))


@activations
def test_activation_is_that_of_torch(name, params, rng):
    torch = pytest.importorskip("torch")
    forward, backward = baseline.ACTIVATIONS[name]
    extremes = [0.0, 1e-300, 1e-12, 0.662, 0.664, 5.0, 9.0, 19.99, 20.01, 90.0, 750.0, 1e4]
    x = np.concatenate([extremes, np.negative(extremes), rng.normal(0, 3, 200)])
    y = forward(x, **params)
    dy = rng.normal(size=x.shape)
    t = torch.tensor(x, requires_grad=True)
    theirs = getattr(torch.nn, name)(**params)(t)
    theirs.backward(torch.tensor(dy))
    close(y, theirs)
    close(backward(dy, x, y, **params), t.grad)
    single = x.astype(np.float32)
    for array in (forward(single, **params), backward(single, single, single, **params)):
        assert np.isfinite(array).all()


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 1e-15)])
def test_erf(dtype, atol):
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, 1e-9, 1e4, -1e4]]).astype(dtype)
    expected = np.array([math.erf(v) for v in x])
    close(baseline.erf(x), expected, 0 if dtype == np.float32 else 1e-15, atol)


def example(case, rng, scale=1):
    """Predictions and targets for a loss."""
    return case.predictions(scale * rng.normal(size=(7, 5))), case.targets(rng, 7, 5)


@losses
def test_loss_gradients(case, rng):
    z, y = example(case, rng)
    for w in (None, rng.integers(0, 3, 7)):
        gradient = case.oracle(z, y, w)[1]
        assert_is_gradient(gradient, lambda v, w=w: case.oracle(v, y, w)[0], z)


@losses
@pytest.mark.parametrize("scale", [1, 30, 1e4])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
def test_loss_is_that_of_torch(case, scale, rng):
    z, y = example(case, rng, min(scale, 30) if case.name == "PoissonNLLLoss" else scale)
    for w in (None, rng.integers(1, 4, 7) / 2):
        theirs, gradient = case.in_torch(z, y, w)
        value, dz = case.oracle(z, y, w)
        assert type(value) is float
        close(value, theirs)
        close(dz, gradient)
    params = case.params_for(5)
    dz = case.baseline(z.astype(np.float32), y if y.ndim == 1 else y.astype(np.float32), **params)
    assert dz[1].dtype == np.float32
    theirs, gradient = case.in_torch(z, y)
    close([dz[0], *dz[1].ravel()], [theirs, *gradient.ravel()], 1e-5, 1e-5)


def test_losses_refuse_bad_targets():
    z = np.zeros((3, 2))
    for loss in (baseline.cross_entropy, baseline.multi_margin):
        for labels in ([0, 1, -1], [0, 1], [[0], [1], [1]]):
            with pytest.raises(ValueError, match="labels"):
                loss(z, np.array(labels))
        with pytest.raises(IndexError):
            loss(z, np.array([0, 1, 2]))
    elementwise = (
        baseline.mse_loss, baseline.bce_with_logits, baseline.l1_loss, baseline.huber_loss,
        baseline.smooth_l1_loss, baseline.quantile_loss, baseline.poisson_nll_loss,
        baseline.kl_div, baseline.hinge_loss,
    )  # fmt: skip
    for loss in (baseline.cross_entropy, *elementwise):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(z, np.zeros((3, 1)))


def test_batchnorm_is_that_of_torch(rng):
    torch = pytest.importorskip("torch")
    x, gamma, beta, mean, var = batchnorm_inputs(rng)
    t = [torch.tensor(a, requires_grad=i < 3) for i, a in enumerate((x, gamma, beta, mean, var))]
    theirs = torch.nn.functional.batch_norm(t[0], *t[3:], *t[1:3], training=True, momentum=0.2)
    y, *saved = baseline.batchnorm_forward(x, gamma, beta, mean, var, momentum=0.2)
    dy = rng.normal(size=y.shape)
    theirs.backward(torch.tensor(dy))
    close(y, theirs)
    close(mean, t[3])
    close(var, t[4])
    for ours, leaf in zip(baseline.batchnorm_backward(dy, x, *saved, gamma), t[:3], strict=True):
        close(ours, leaf.grad)
    theirs = torch.nn.functional.batch_norm(t[0], *t[3:], *t[1:3])
    close(baseline.batchnorm_predict(x, gamma, beta, mean, var), theirs)


def test_batchnorm_without_a_momentum_keeps_plain_means(rng):
    x = rng.normal(2, 3, (4, 9, 5))
    layer = baseline.BatchNorm1d(np.ones(5), np.zeros(5), momentum=None)
    for batch in x:
        layer.forward(batch, training=True)
    close(layer.running_mean, x.mean(axis=(0, 1)))
    close(layer.running_var, x.var(axis=1, ddof=1).mean(axis=0))


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[f"{n}-{o}" for n, o in OPTIMIZERS])
def test_fifty_optimizer_steps_are_those_of_torch(name, options, rng):
    with torch_scalars("float64") as torch:
        params = [rng.normal(size=s) for s in [(5, 3), (5,)]]
        leaves = [torch.tensor(p, requires_grad=True) for p in params]
        ours = getattr(baseline, name)(params, lr=0.01, **options)
        theirs = getattr(torch.optim, name)(leaves, lr=0.01, **options)
        for _ in range(50):
            grads = [rng.normal(size=p.shape) for p in params]
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.grad = torch.tensor(grad)
            kept = [g.copy() for g in grads]
            ours.step(grads)
            theirs.step()
            for param, leaf, grad, copy in zip(params, leaves, grads, kept, strict=True):
                close(param, leaf, 1e-12, 1e-15)
                np.testing.assert_array_equal(grad, copy)


def test_lion_by_hand():
    p = np.array([1.0, -2.0, 3.0])
    lion = baseline.Lion([p], lr=0.1, betas=(0.5, 0.75), weight_decay=1.0)
    lion.step([np.array([4.0, -8.0, 0.0])])
    close(p, [0.8, -1.7, 2.7], 1e-12)
    lion.step([np.array([-0.5, 8.0, 0.0])])  # m is now 1, -2 and 0
    close(p, [0.62, -1.63, 2.43], 1e-12)


def torch_twin(torch, network):
    """Build the same network in PyTorch, from the layers of ours."""
    modules = []
    for layer in network.layers:
        if isinstance(layer, baseline.Linear):
            modules.append(torch.nn.Linear(*layer.weight.shape[::-1], dtype=torch.float64))
        elif isinstance(layer, baseline.BatchNorm1d):
            modules.append(torch.nn.BatchNorm1d(len(layer.gamma), dtype=torch.float64))
        else:
            modules.append(torch.nn.GELU())
    twin = torch.nn.Sequential(*modules)
    with torch.no_grad():
        for theirs, ours in zip(twin.parameters(), network.parameters(), strict=True):
            theirs.copy_(torch.tensor(ours))
    return twin


@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_is_that_of_torch(batch_norm, rng):
    torch = pytest.importorskip("torch")
    network = baseline.MLP.build([6, 8, 7, 3], "GELU", batch_norm, seed=1, dtype=np.float64)
    twin = torch_twin(torch, network)
    x, labels = rng.normal(size=(20, 6)), rng.integers(0, 3, 20)
    optimizer = baseline.SGD(network.parameters(), lr=0.1, momentum=0.9)
    reference = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        reference.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
        loss.backward()
        reference.step()
        ours = baseline.train_step(network, baseline.cross_entropy, optimizer, x, labels)
        close(ours, loss)
    close(network.forward(x), twin.eval()(torch.tensor(x)), 1e-9, 1e-9)
    # The whole backward, that of the input too.
    t = torch.tensor(x, requires_grad=True)
    twin.train()(t).sum().backward()
    y = network.forward(x, training=True)
    close(network.backward(np.ones_like(y)), t.grad, 1e-9, 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [64, 65, 1])
def test_fit_learns_and_keeps_dtype(rows, dtype, rng):
    x = rng.normal(size=(rows, 4)).astype(dtype)
    y = (x[:, :1] * x[:, 1:2]).astype(dtype)
    network = baseline.MLP.build([4, 16, 1], "Tanh", batch_norm=rows > 1, dtype=dtype)
    optimizer = baseline.AdamW(network.parameters(), lr=0.02)
    losses = baseline.fit(network, baseline.mse_loss, optimizer, x, y, 40, 16, rng)
    assert len(losses) == 40
    assert losses[-1] < 0.5 * losses[0]
    assert network.forward(x).dtype == dtype
    assert {a.dtype for a in network.parameters() + network.gradients()} == {np.dtype(dtype)}


def test_fit_visits_every_row_once_an_epoch_in_a_new_order(rng):
    seen = []

    def loss(pred, target):
        seen.append(target.ravel())
        return float(len(target)), np.zeros_like(pred)

    rows = np.arange(9.0)[:, None]
    network = baseline.MLP.build([1, 2, 1], dtype=np.float64)
    optimizer = baseline.SGD(network.parameters())
    assert baseline.fit(network, loss, optimizer, rows, rows, 2, 4, rng) == [(16 + 25) / 9] * 2
    assert [len(batch) for batch in seen] == [4, 5, 4, 5]
    first, second = np.concatenate(seen).reshape(2, 9)
    assert sorted(first) == sorted(second) == list(range(9))
    assert not np.array_equal(first, second)


def test_load_sets_the_parameters():
    source, target = (baseline.MLP.build([4, 5, 2], seed=s) for s in (0, 1))
    target.load(source.parameters())
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours is not theirs
    with pytest.raises(ValueError, match="shapes differ"):
        target.load([p.T for p in source.parameters()])

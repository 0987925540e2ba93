"""docs/theory.md: what it names is there, its formulas can be read, and they are those of minidl.

Formulas that other tests hold to NumPy, PyTorch or finite differences are not tried again: the page
names these tests.
"""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import minidl

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs"
PAGE = (FOLDER / "theory.md").read_text(encoding="utf-8")
RTOL = 1e-12

# ------------------------------------------------------------------------------- the page

REFERENCE = re.compile(r"\[`([\w.]+):{1,2} ?(\w+)`\]\((\.\./[\w/.]+)\)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#]*)#?([^)]*)\)")
# Formulas as GitHub reads them: $`...`$ in a line, which keeps Markdown's signs out of it, and
# blocks marked `math`.

BLOCKS = re.findall(r"^```math\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```\w+\n.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
INLINE = re.findall(r"\$`([^`]+)`\$", PROSE)
SECTIONS = re.findall(r"^## \d\. (.+?)\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)


def anchor(title):
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_functions_and_tests_are_where_the_page_says():
    found = REFERENCE.findall(PAGE)
    assert len(found) > 40
    for file, name, path in found:
        assert Path(path).name == file
        text = (FOLDER / path).read_text(encoding="utf-8")
        defined = rf"^\s*(?:cdef|cpdef|def|class)\b.*\b{name}\b *[(:]"
        assert re.search(defined, text, re.MULTILINE), f"{path} has no {name}"
        assert not path.startswith("../tests/") or name.startswith("test_")


def test_links_lead_somewhere():
    anchors = {anchor(title) for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    links = LINK.findall(PAGE)
    assert len(links) > 50
    for path, place in links:
        assert (FOLDER / path).is_file() if path else place in anchors, path or place


def test_each_section_has_its_kernel_its_test_and_its_picture():
    titles = [title for title, _ in SECTIONS]
    assert titles == [
        "Forward", "Backward", "Vanishing and exploding gradients", "BatchNorm", "Memory"
    ]  # fmt: skip
    for title, text in SECTIONS:
        paths = {path.split("/")[1] for _, _, path in REFERENCE.findall(text)}
        assert paths == {"minidl", "tests"}, title
        assert re.search(r"\]\(pictures/\w+\.\w+\)", text), title


def test_pictures_are_drawn_by_the_examples_that_it_names():
    commands = re.findall(r"^python (examples/(\w+)\.py) docs/pictures$", PAGE, re.MULTILINE)
    assert {name for _, name in commands} == {p.stem for p in (FOLDER / "pictures").iterdir()}
    for path, name in commands:
        (picture,) = (FOLDER / "pictures").glob(f"{name}.*")
        assert f'"{picture.name}"' in (ROOT / path).read_text(encoding="utf-8")
        assert f"](pictures/{picture.name})" in PAGE
        assert picture.stat().st_size < 150_000


def test_names_are_those_of_minidl():
    text = re.sub(r"\$`[^`]+`\$", "", PROSE)
    names = re.findall(r"`(?:minidl\.(\w+(?:\.\w+)*)|([A-Z]\w+(?:\.\w+)*))[(`]", text)
    assert len(names) > 20
    for name in {a or b for a, b in names}:
        thing = minidl
        for part in name.split("."):
            thing = getattr(thing, part)


# Refused by GitHub; see its issue github/markup#1688.
REFUSED = re.compile(r"\\(operatorname|mbox|phantom|def|newcommand|require|href|unicode)\b")


def faults(tex):
    """What keeps a formula from being read."""
    found = []
    plain = re.sub(r"\\[{}\\]", "", tex)
    depth = 0
    for sign in re.findall(r"[{}]", plain):
        depth += 1 if sign == "{" else -1
        if depth < 0:
            break
    if depth:
        found.append("braces")
    for left, right in ((r"\\left\b", r"\\right\b"), (r"\\[Bb]igg?l\b", r"\\[Bb]igg?r\b"),
                        (r"\\begin\b", r"\\end\b")):  # fmt: skip
        if len(re.findall(left, tex)) != len(re.findall(right, tex)):
            found.append(f"{left} and {right}")
    if REFUSED.search(tex) or "$" in tex:
        found.append("refused")
    return found


def unknown(tex):
    """Commands that latex2mathml does not know, or why it cannot read a formula."""
    converter = pytest.importorskip("latex2mathml.converter")
    try:
        mathml = converter.convert(tex)
    except Exception as error:
        return [repr(error)]
    return re.findall(r"<m\w+[^>]*>(\\[^<]*)<", mathml)


def test_formulas_are_well_formed():
    assert len(BLOCKS) > 30
    assert len(INLINE) > 200
    assert {tex: faults(tex) for tex in BLOCKS + INLINE if faults(tex)} == {}
    for broken in ("a_{b", "a}_{b", r"\left( a", r"\begin{aligned} a", r"\operatorname{a}", "$a$"):
        assert faults(broken), broken


def test_formulas_are_parsed():
    assert {tex: unknown(tex) for tex in BLOCKS + INLINE if unknown(tex)} == {}
    for broken in (r"\frac", r"\nosuch{a}", r"\left( a", "a^b^c"):
        assert unknown(broken), broken


def test_formulas_in_lines_stand_apart():
    """Dollars count where a word begins or ends; a bar would end the cell of a table."""
    assert "$" not in re.sub(r"\$`[^`]+`\$", "", PROSE)
    for before, tex, after in re.findall(r"(.?)\$`([^`]+)`\$(.?)", PROSE):
        assert before in ("", " "), f"{before}{tex}"
        assert after in ("", *" .,;:"), f"{tex}{after}"
        assert "|" not in tex, tex


# --------------------------------------------------------------------- forward and backward


def wide(*layers, seed=0):
    """A network in float64; seed None: with the parameters that its layers have."""
    return minidl.Sequential(*layers, dtype="float64", seed=seed)


def close(actual, expected, rtol=RTOL):
    """Every element, relative to the largest."""
    np.testing.assert_allclose(actual, expected, rtol, rtol * np.abs(expected).max())


def test_a_network_by_hand():
    """Sections 1 and 2 line by line."""
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(9, 5)), rng.integers(0, 3, 9)
    model = wide(minidl.Linear(5, 7), minidl.Tanh(), minidl.Linear(7, 3))
    W1, b1, W2, b2 = (p.copy() for p in model.parameters())

    H = np.tanh(X @ W1.T + b1)
    Z = H @ W2.T + b2
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    value = np.mean(np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(9), t])

    dZ = (P - np.eye(3)[t]) / 9
    dW2, db2, dH = dZ.T @ H, dZ.sum(axis=0), dZ @ W2
    dA = dH * (1 - H**2)
    dW1, db1, dX = dA.T @ X, dA.sum(axis=0), dA @ W1

    loss = minidl.CrossEntropyLoss()
    assert loss(model(X), t) == pytest.approx(value, rel=RTOL)
    close(loss.backward(), dZ)
    assert np.abs(dZ).max() <= 1 / 9
    assert np.abs(dZ.sum(axis=1)).max() < 1e-15
    close(model.backward(loss.backward()), dX)
    for actual, expected in zip(model.gradients(), (dW1, db1, dW2, db2), strict=True):
        close(actual, expected)


def test_the_gradient_is_a_product_of_jacobians():
    """dh_l = dh_L M_L ... M_(l+1), with M = diag(phi'(z)) W."""
    rng = np.random.default_rng(0)
    widths, x = [5, 7, 6, 8, 4], rng.normal(size=(3, 5))
    layers = [
        layer for d, k in pairwise(widths)
        for layer in (minidl.Linear(d, k), minidl.Tanh())
    ]  # fmt: skip
    model = wide(*layers)
    found = minidl.jacobian(model, x, layers=True)
    outputs, jacobians = [x], []
    for linear in layers[::2]:
        h = np.tanh(outputs[-1] @ linear.weight.T + linear.bias)
        outputs.append(h)
        jacobians.append((1 - h**2)[:, :, None] * linear.weight)
    for i, M in enumerate(jacobians):
        close(found[2 * i + 1].own @ found[2 * i].own, M)
    dh = rng.normal(size=(3, 4))
    row = dh[:, None]
    for i in range(len(jacobians) - 1, -1, -1):
        row = row @ jacobians[i]
        behind = wide(*layers[2 * i :], seed=None)
        behind(outputs[i])
        close(behind.backward(dh), row[:, 0])
        close(np.einsum("nk,nkd->nd", dh, found[2 * i].product), row[:, 0])


# ------------------------------------------------------------- vanishing and exploding


def stack(activation, width, layers, init, batch_norm=False):
    """Linear layers with biases of 0, each but the last with an activation behind it."""
    made = []
    for _ in range(layers):
        made.append(minidl.Linear(width, width, weight_init=init, bias_init="zeros"))
        made += [minidl.BatchNorm1d(width)] if batch_norm else []
        made.append(activation())
    return wide(*made[: -2 if batch_norm else -1])


@pytest.mark.parametrize("activation", [minidl.Sigmoid, minidl.Tanh, minidl.ReLU])
def test_a_product_lengthens_no_more_than_its_factors(activation):
    model = stack(activation, 12, 8, "kaiming_normal")
    spectrum = minidl.jacobian_spectrum(model, np.random.default_rng(0).normal(size=(20, 12)))
    bound = np.ones(20)
    for layer in reversed(spectrum.layers):
        bound = bound * layer.singular_values[:, 0]
        assert (layer.product[:, 0] <= bound * (1 + RTOL)).all()
    slope = {minidl.Sigmoid: 0.25}.get(activation, 1.0)
    weights = [np.linalg.norm(layer.weight, 2) for layer in list(model)[::2]]
    assert (spectrum.layers[0].product[:, 0] <= slope**7 * np.prod(weights)).all()


@pytest.mark.parametrize(
    ("activation", "steepest"), [(minidl.Sigmoid, 0.25), (minidl.Tanh, 1.0), (minidl.ReLU, 1.0)]
)
def test_slopes_of_activations(activation, steepest):
    x = np.linspace(-40, 40, 4001).reshape(-1, 1)
    layer = wide(activation())
    y = layer(x)
    slopes = layer.backward(np.ones_like(x))
    assert slopes.max() == steepest
    assert slopes.min() >= 0
    if activation is minidl.Sigmoid:
        assert slopes[2000] == steepest  # at 0
        np.testing.assert_allclose(0.25 - slopes, (y - 0.5) ** 2, atol=1e-15)


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("xavier_normal", lambda d, k: 2 / (d + k)),
        ("xavier_uniform", lambda d, k: 2 / (d + k)),
        ("kaiming_normal", lambda d, k: 2 / d),
        ("kaiming_uniform", lambda d, k: 2 / d),
        ("torch_linear", lambda d, k: 1 / (3 * d)),
    ],
)
def test_scale_of_one_layer(init, variance):
    """E z^2 = D s^2 q, E dh^2 = K s^2 r; ReLU leaves one half of each."""
    d, k, rng = 600, 400, np.random.default_rng(1)
    linear, relu = minidl.Linear(d, k, weight_init=init, bias_init="zeros"), minidl.ReLU()
    linear, relu = wide(linear, seed=2), wide(relu)
    h, dz = 3 * rng.normal(size=(500, d)) + 1, rng.normal(size=(500, k))
    z = linear(h)
    assert np.mean(z**2) == pytest.approx(d * variance(d, k) * np.mean(h**2), rel=0.03)
    dh = linear.backward(dz)
    assert np.mean(dh**2) == pytest.approx(k * variance(d, k) * np.mean(dz**2), rel=0.03)
    assert np.mean(relu(z) ** 2) == pytest.approx(np.mean(z**2) / 2, rel=0.05)
    assert np.mean(relu.backward(dz) ** 2) == pytest.approx(np.mean(dz**2) / 2, rel=0.05)


def twice_kaiming(shape, rng):
    """Twice the spread of Kaiming's weights."""
    return 2 * minidl.initializers.kaiming_normal(shape, rng)


def naive(shape, rng):
    """As wide as 64 units with N(0, 0.1^2)."""
    return rng.normal(0, 0.8 / np.sqrt(shape[1]), shape)


GROWTH = np.sqrt(np.pi / (np.pi - 1))


@pytest.mark.parametrize(
    ("activation", "init", "batch_norm", "forward", "backward"),
    [
        (minidl.ReLU, "kaiming_normal", False, 1, 1),
        (minidl.ReLU, twice_kaiming, False, 2, 2),
        (minidl.ReLU, "torch_linear", False, np.sqrt(1 / 6), np.sqrt(1 / 6)),
        (minidl.Sigmoid, naive, False, 1, 0.2),
        (minidl.ReLU, "kaiming_normal", True, 1, GROWTH),
        (minidl.ReLU, twice_kaiming, True, 1, GROWTH),
        (minidl.ReLU, "torch_linear", True, 1, GROWTH),
    ],
)
def test_scale_of_many_layers(activation, init, batch_norm, forward, backward):
    """Layer by layer: of what comes out, and of the gradient."""
    width, layers, rng = 200, 15, np.random.default_rng(0)
    X, y = rng.normal(size=(800, width)), rng.integers(0, width, 800)
    model = stack(activation, width, layers, init, batch_norm)
    report = minidl.diagnose(model, X, y, batch_size=800)
    # Not the ends: the first layer's input is no output of ReLU, and the gradient of the loss is
    # not random.
    inner = [x for x in report.layers if x.weighted][2:-2]
    sizes, gradients = ([f(x) for x in inner] for f in (
        lambda x: np.hypot(x.mean, x.std), lambda x: x.gradient))  # fmt: skip
    for values, growth in ((sizes, forward), (gradients[::-1], backward)):
        found = (values[-1] / values[0]) ** (1 / (len(inner) - 1))
        assert found == pytest.approx(growth, rel=0.05)


def test_residual_blocks():
    """M = I + B, and the singular values of a product of n of them."""
    blocks = [
        wide(minidl.Linear(6, 9), minidl.Tanh(), minidl.Linear(9, 6), seed=seed)
        for seed in range(10)
    ]
    for block in blocks:
        block[2].weight = 0.2 * block[2].weight
    model = wide(*map(minidl.Residual, blocks), seed=None)
    X, b = np.random.default_rng(0).normal(size=(8, 6)), 0.0
    x = X
    for found, block in zip(minidl.jacobian(model, X, layers=True), blocks, strict=True):
        assert found.type == "Residual"
        B = minidl.jacobian(block, x)
        close(found.own, np.eye(6) + B)
        b = max(b, np.linalg.norm(B, 2, axis=(1, 2)).max())
        x = x + block(x)
    values = minidl.jacobian_spectrum(model, X).layers[0].product
    assert b < 0.5
    assert ((1 - b) ** 10 <= values).all()
    assert (values <= (1 + b) ** 10).all()


@pytest.mark.parametrize("c", [1e-3, 0.1, 1e3])
def test_clipping(c):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    changes = []
    for bound in (None, c):
        model = wide(minidl.Linear(5, 8), minidl.Tanh(), minidl.Linear(8, 3))
        before = np.concatenate([p.ravel() for p in model.parameters()])
        trainer = minidl.Trainer(model, optimizer=minidl.SGD(lr=0.5), clip_grad_norm=bound)
        trainer.train_step(X, y)
        changes.append(before - np.concatenate([p.ravel() for p in model.parameters()]))
    g = changes[0] / 0.5
    clipped = g * min(1, c / (np.linalg.norm(g) + 1e-6))
    close(changes[1], 0.5 * clipped)
    assert np.linalg.norm(changes[1]) <= 0.5 * c


# ------------------------------------------------------------------------------ BatchNorm


def batchnorm(features, eps=1e-5):
    """A layer in training mode with parameters that are not 0 and 1."""
    rng = np.random.default_rng(7)
    layer = minidl.BatchNorm1d(features, eps, dtype="float64")
    layer.weight, layer.bias = rng.uniform(0.5, 2, features), rng.normal(size=features)
    return layer


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("n", [2, 3, 40])
def test_batchnorm_step_by_step(n, eps):
    """The page's derivation, line by line, and the form that the kernel has."""
    layer, rng = batchnorm(6, eps), np.random.default_rng(n)
    x, dy = rng.normal(2, 3, (n, 6)), rng.normal(size=(n, 6))
    gamma, beta = layer.weight, layer.bias

    mu = x.mean(axis=0)
    variance = ((x - mu) ** 2).mean(axis=0) + eps  # sigma_B^2
    sigma = np.sqrt(variance)
    xhat = (x - mu) / sigma
    close(layer(x), gamma * xhat + beta)
    np.testing.assert_allclose((xhat**2).mean(axis=0), 1 - eps / variance, RTOL)

    dgamma, dbeta, dxhat = (dy * xhat).sum(axis=0), dy.sum(axis=0), gamma * dy
    dvariance = (dxhat * (x - mu) * (-0.5 * sigma**-3)).sum(axis=0)
    close(dvariance, -gamma * dgamma / (2 * variance))
    dmu = -(dxhat / sigma).sum(axis=0) + dvariance * (-2 / n * (x - mu).sum(axis=0))
    close(dmu, -gamma * dbeta / sigma)
    stepwise = dxhat / sigma + dvariance * 2 / n * (x - mu) + dmu / n
    simplified = gamma / sigma * (dy - dbeta / n - xhat * dgamma / n)

    size = np.abs(dxhat / sigma).max()  # of the terms, which nearly cancel where n is 2
    dx = layer.backward(dy)
    np.testing.assert_allclose(dx, stepwise, atol=RTOL * size)
    np.testing.assert_allclose(dx, simplified, atol=RTOL * size)
    close(layer.gradient("weight"), dgamma)
    close(layer.gradient("bias"), dbeta)


def test_what_batchnorm_takes_out_of_a_gradient():
    """Two directions of N: the mean, and, but for epsilon, xhat. With N = 2 nothing is left."""
    rng, eps = np.random.default_rng(0), 0.01
    layer, x, dy = batchnorm(1, eps), rng.normal(size=(7, 1)), rng.normal(size=(7, 1))
    variance = x.var() + eps
    scale = layer.weight[0] / np.sqrt(variance)
    xhat = (x - x.mean()) / np.sqrt(variance)
    layer(x)
    dx = layer.backward(dy)
    assert abs(dx.sum()) < 1e-14
    rest = scale * eps / variance * layer.gradient("weight")[0]
    assert (dx * xhat).sum() == pytest.approx(rest, rel=1e-10)
    jacobian = np.column_stack([layer.backward(unit[:, None]) for unit in np.eye(7)])
    close(jacobian, jacobian.T)
    values = np.linalg.svd(jacobian / scale, compute_uv=False)
    np.testing.assert_allclose(values, [1] * 5 + [eps / variance, 0], atol=1e-12)

    x = np.array([[3.0], [7.5]])
    variance = x.var() + eps
    y = (layer(x) - layer.bias) / layer.weight
    np.testing.assert_allclose(y, np.array([[-1], [1]]) * np.sqrt(1 - eps / variance), RTOL)
    dy = np.array([[5.0], [-1.0]])
    scale = layer.weight / np.sqrt(variance)
    close(layer.backward(dy), scale * (dy - dy.mean()) * eps / variance, 1e-9)


def test_batchnorm_and_the_layer_before_it():
    """The bias has no gradient; the scale of the weights is that of the inverse gradient alone."""
    rng = np.random.default_rng(0)
    H, dy = rng.normal(size=(20, 5)), rng.normal(size=(20, 6))
    found = []
    for a in (1.0, 1000.0):
        model = wide(minidl.Linear(5, 6), batchnorm(6, 1e-30))
        model[0].weight = a * model[0].weight
        y, dH = model(H), model.backward(dy)
        dW, db = (g.copy() for g in model.gradients()[:2])
        found.append((y, dH, a * dW))
        assert np.abs(db).max() < 1e-13 * np.abs(dW).max() * len(H)
    for one, other in zip(*found, strict=True):
        close(one, other)

    eps = 0.3
    model = wide(minidl.Linear(5, 6), batchnorm(6, eps))
    x = H @ model[0].weight.T
    model(H)
    model.backward(dy)
    dW, _, dgamma, _ = model.gradients()
    products = (model[0].weight * dW).sum(axis=1)
    close(products, model[1].weight * dgamma * eps / (x.var(axis=0) + eps))


# --------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [(minidl.Adam(), 2), (minidl.SGD(lr=0.1, momentum=0.9), 1)],
    ids=["Adam", "SGD"],
)
@pytest.mark.parametrize("widths", [[64] * 12, [32, 96, 16, 64, 48, 96, 96, 16]], ids=str)
def test_memory_of_training_and_prediction(widths, optimizer, states):
    """Both formulas of section 5, and a layer or two; a row has a label and a weight, too."""
    N, u = 10_000, 4
    layers = [
        layer for d, k in pairwise(widths) for layer in (minidl.Linear(d, k), minidl.ReLU())
    ]  # fmt: skip
    model = minidl.Sequential(*layers[:-1])
    report = model.memory(N, optimizer=optimizer)
    P = sum(p.size for p in model.parameters())
    training = N * u * sum(widths) + 2 * P * u * (1 + states)
    assert training <= sum(report.training.values()) <= training + N * u * 2.5 * max(widths)
    outputs = widths[1:]
    prediction = N * u * (widths[0] + max(outputs[::2]) + max(outputs[1::2])) + P * u
    assert prediction <= sum(report.prediction.values()) <= prediction + N * u * max(widths)

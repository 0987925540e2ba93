"""A layer and a loss in Python, checked by finite differences, trained inside a compiled network.

Shows what `backward` of a layer of your own writes, how to check it, and what the way through
Python costs in time:

    python examples/custom_layer_and_loss.py
"""

import time

import numpy as np

import minidl


class Snake(minidl.Layer):
    """y = x + sin(a x)^2 / a, with a learned frequency for each feature. Ziyin and others, 2020."""

    def __init__(self, features, dtype="float32"):
        super().__init__(dtype)
        self.add_parameter("frequency", np.ones(features))

    def forward(self, x):
        """The formula; the input is kept for `backward`."""
        self.x = x
        return x + np.sin(self.frequency * x) ** 2 / self.frequency

    def backward(self, dy):
        """Its derivatives by the frequency and by x."""
        a, x = self.frequency, self.x
        slope = np.sin(2 * a * x)  # the derivative of sin(u)^2
        self.gradient("frequency")[...] = (dy * (slope * x / a - np.sin(a * x) ** 2 / a**2)).sum(
            axis=0
        )
        return dy * (1 + slope)


def log_cosh(prediction, y):
    """Like a square near 0 and like an absolute value far from it: the mean, and its gradient."""
    difference = prediction - y
    size = np.abs(difference)
    loss = size + np.log1p(np.exp(-2 * size)) - np.log(2)  # log(cosh), without overflow
    return loss.mean(), np.tanh(difference) / difference.size


def differences(function, array, step=1e-6):
    """The gradient of a function of an array, by central differences."""
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + step
        above = function()
        array[index] = before - step
        gradient[index] = (above - function()) / (2 * step)
        array[index] = before
    return gradient


def check_gradients():
    """The greatest difference between gradients as written and by finite differences."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    layer = Snake(3, dtype="float64")
    layer.frequency = rng.uniform(0.5, 2, 3)

    def loss():
        return log_cosh(layer.forward(x), y)[0]

    prediction = layer.forward(x)
    by_x = layer.backward(log_cosh(prediction, y)[1])
    pairs = {
        "layer, by x": (by_x, differences(loss, x)),
        "layer, by frequency": (layer.gradient("frequency"), differences(loss, layer.frequency)),
        "loss, by prediction": (
            log_cosh(prediction, y)[1],
            differences(lambda: log_cosh(prediction, y)[0], prediction),
        ),
    }
    return {name: np.abs(a - b).max() for name, (a, b) in pairs.items()}


def trainer_with(activation, loss):
    """A trainer of a network with this activation, seeded."""
    model = minidl.Sequential(
        minidl.Linear(1, 32), activation(32), minidl.Linear(32, 32), activation(32),
        minidl.Linear(32, 1), seed=0,
    )  # fmt: skip
    return minidl.Trainer(model, loss, minidl.Adam(lr=3e-3))


def microseconds_a_step(trainer, X, y, epochs=20):
    """Time of a step of 64 rows: the best of three, after a warm-up."""
    trainer.fit(X, y, epochs=1, batch_size=64, seed=0)
    times = []
    for _ in range(3):
        steps, start = trainer.step, time.perf_counter()
        trainer.fit(X, y, epochs=epochs, batch_size=64)
        times.append(1e6 * (time.perf_counter() - start) / (trainer.step - steps))
    return min(times)


def main():
    """Check, train, time."""
    errors = check_gradients()
    print("gradients as written, beside finite differences:")
    for name, error in errors.items():
        print(f"  {name:22} differ by {error:.1e} at most")

    rng = np.random.default_rng(0)
    X = rng.uniform(-6, 6, (2000, 1))
    y = X[:, 0] / 2 + np.sin(2 * X[:, 0])
    trainer = trainer_with(Snake, log_cosh)
    history = trainer.fit(X, y, epochs=100, batch_size=64, seed=0).history["loss"]
    print(f"\ntrained on x / 2 + sin(2 x): loss {history[0]:.4f} after the first epoch, "
          f"{history[-1]:.6f} after {len(history)}")  # fmt: skip

    ways = {
        "compiled: SiLU, HuberLoss": (lambda features: minidl.SiLU(), minidl.HuberLoss()),
        "SiLU, log_cosh in Python": (lambda features: minidl.SiLU(), log_cosh),
        "two Snakes and log_cosh in Python": (Snake, log_cosh),
    }
    print("\nmicroseconds a step of 64 rows, 1-32-32-1:")
    times = {name: microseconds_a_step(trainer_with(*way), X, y) for name, way in ways.items()}
    compiled = min(times.values())
    for name, value in times.items():
        print(f"  {name:36}{value:7.1f}   {value / compiled:5.1f} times")

    assert max(errors.values()) < 1e-8
    assert history[-1] < 0.01 * history[0]
    assert times["compiled: SiLU, HuberLoss"] == compiled


if __name__ == "__main__":
    main()

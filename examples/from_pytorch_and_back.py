"""A network defined in PyTorch, trained by minidl, and handed back to PyTorch.

Shows `from_torch`, `to_torch` and `fuse`, and that all of them predict the same. Needs PyTorch:

    python examples/from_pytorch_and_back.py
"""

import numpy as np
import torch

import minidl


def spirals(rows, rng):
    """Points on two spirals, one turning into the other, and which of them they are on."""
    y = rng.integers(0, 2, rows)
    angle = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, rows))
    turned = angle + np.pi * y
    X = np.stack([angle * np.cos(turned), angle * np.sin(turned)], axis=1) / 5
    return (X + rng.normal(0, 0.05, X.shape)).astype(np.float32), y


def predictions_of(module, X):
    """What a PyTorch module predicts, as an array."""
    with torch.inference_mode():
        return module.eval()(torch.from_numpy(X)).numpy()


rng = np.random.default_rng(0)
X, y = spirals(4000, rng)
X_test, y_test = spirals(1000, rng)

torch.manual_seed(0)
module = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.BatchNorm1d(64), torch.nn.SiLU(),
    torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.SiLU(),
    torch.nn.Linear(64, 2),
)  # fmt: skip

model = minidl.from_torch(module)
print("from PyTorch:")
print(model)

history = minidl.Trainer(model, optimizer=minidl.Adam(lr=1e-2)).fit(X, y, epochs=30, seed=0)
ours = model.predict(X_test)
print(f"\ntrained by minidl: loss {history.history['loss'][-1]:.4f}, test accuracy "
      f"{(ours.argmax(axis=1) == y_test).mean():.3f}")  # fmt: skip

theirs = predictions_of(minidl.to_torch(model), X_test)
print(f"back in PyTorch: predictions differ by {np.abs(theirs - ours).max():.1e} at most")

fused = model.fuse()
print(f"fused for prediction: {len(model)} layers become {len(fused)}, predictions differ by "
      f"{np.abs(fused.predict(X_test) - ours).max():.1e} at most")  # fmt: skip

scale = np.abs(ours).max()
assert np.allclose(theirs, ours, rtol=0, atol=1e-5 * scale)
assert np.allclose(fused.predict(X_test), ours, rtol=0, atol=1e-5 * scale)

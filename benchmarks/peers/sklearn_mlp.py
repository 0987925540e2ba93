"""scikit-learn: MLPClassifier and MLPRegressor, no L2, no shuffling."""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
from cases import MOMENTUM, Case
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from peers.base import System, Weights

# Its epsilon stands beside the root of v without the bias correction, 32 times smaller at first. A
# smaller one brings its steps nearer to those of the others where gradients are tiny.
EPSILON = 1e-9


class ScikitLearn(System):
    """`fit` with `warm_start`.

    The regressor's loss is half the mean squared error. What `run` returns is twice its loss; the
    steps of Adam are the same for a gradient of half the size, those of SGD are not.
    """

    def versions(self) -> dict[str, str]:
        """Of scikit-learn."""
        return {"scikit-learn": sklearn.__version__}

    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """A first epoch makes what `fit` needs; then the weights are those given."""
        self.case, self.X = case, X
        self.y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        kind, self.scale = (MLPRegressor, 2) if case.loss == "mse" else (MLPClassifier, 1)
        self.model = kind(
            hidden_layer_sizes=case.layers[1:-1],
            activation=case.activation,
            solver=case.optimizer,
            alpha=0.0,
            epsilon=EPSILON,
            batch_size=case.batch,
            learning_rate_init=case.learning_rate,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            shuffle=False,
            tol=0.0,
            n_iter_no_change=10**9,
            warm_start=True,
            random_state=0,
        )
        self.run(1)
        for own, bias, (weight, start) in zip(
            self.model.coefs_, self.model.intercepts_, weights, strict=True
        ):
            own[...], bias[...] = weight.T, start

    def run(self, epochs: int) -> float:
        """One call; it begins with new moments."""
        self.model.max_iter = epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.X, self.y)
        return self.scale * float(self.model.loss_)

    def state(self) -> dict[str, np.ndarray]:
        """Copies."""
        return {f"weight{i}": weight.T.copy() for i, weight in enumerate(self.model.coefs_)}


SYSTEM = ScikitLearn

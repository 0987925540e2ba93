"""Estimators for scikit-learn, trained by minidl (extra `sklearn`)."""

from minidl.extras import need

need("sklearn", "sklearn", "minidl.sklearn")

from minidl.sklearn.classifier import MLPClassifier  # noqa: E402
from minidl.sklearn.regressor import MLPRegressor  # noqa: E402
from minidl.sklearn.tabular import TabularClassifier, TabularRegressor  # noqa: E402
from minidl.sklearn.tabular_encoder import TabularEncoder  # noqa: E402
from minidl.sklearn.tabular_files import load_tabular, save_tabular  # noqa: E402

__all__ = [
    "MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularEncoder", "TabularRegressor",
    "load_tabular", "save_tabular",
]  # fmt: skip

"""A table of numbers and categories as the numbers and category codes that a network reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from minidl import checks
from minidl.memory import Array
from minidl.sklearn.tabular_columns import Column, Columns, as_numbers, is_number

COLUMNS = 256  # of the piecewise-linear encodings of all numeric columns, if `n_bins` is "auto";
ROWS = 4  # but at least so many rows for each
BINS = (4, 48)  # fewest and most of a column then
CLIP = 3.0  # scaled numbers stay within this distance of the median
FARTHEST = 1e300


def _edges(numbers: Array, n_bins: int) -> Array:
    """Values between which at most `n_bins` bins lie, with equal shares of the numbers.

    A value counts for no more than the share of one bin, so that one that most rows have leaves
    bins for the others; few values are all edges.
    """
    values: Array
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= n_bins + 1:
        return values
    reached = np.minimum(counts, len(numbers) / n_bins).cumsum()
    places = reached.searchsorted(np.linspace(0, reached[-1], n_bins + 1))
    edges: Array = values[np.unique(np.minimum(places, len(values) - 1))]
    return edges


@dataclass(eq=False)
class NumericColumn:
    """A numeric column: scaled robustly, and encoded piecewise linearly.

    With the median m and the quartiles q1 and q3 of training data, a number x becomes
    ``z / hypot(1, z / 3)`` where ``z = (x - m) / (q3 - q1)``, which is near z for most and
    never beyond 3; and, for bins between quantiles ``e[0] < ... < e[n]`` of training data,
    ``clip((x - e[i]) / (e[i + 1] - e[i]), 0, 1)`` for each bin i. What is missing is 0 in all of
    these, and 1 in a column of its own, if training data had missing values; else it is the median.
    """

    median: float
    scale: float
    varies: bool
    has_missing: bool
    edges: Array

    @classmethod
    def learn(cls, column: Column, n_bins: int) -> NumericColumn:
        """Median, quartiles and quantiles of a column of training data."""
        assert column.numbers is not None
        present = column.numbers[~np.isnan(column.numbers)]
        has_missing, edges = len(present) < len(column.numbers), np.zeros(0)
        if not len(present):
            return cls(0.0, 1.0, False, has_missing, edges)
        low, q1, median, q3, high = np.quantile(present, (0, 0.25, 0.5, 0.75, 1)).tolist()
        scale = (q3 - q1 if q3 > q1 else (high - low) / 2) or 1.0
        if n_bins and high > low:
            edges = _edges(present, n_bins)
            if len(edges) == 2:  # two values are a line, which the scaled number is already
                edges = np.zeros(0)
        return cls(median, scale, high > low, has_missing, edges)

    @property
    def width(self) -> int:
        """Columns of the encoding."""
        return int(self.varies) + max(len(self.edges) - 1, 0) + int(self.has_missing)

    def encode(self, column: Column, out: Array) -> None:
        """Write the encoding of N numbers to out (N, width)."""
        assert column.numbers is not None
        missing = np.isnan(column.numbers)
        numbers = np.where(missing, self.median, column.numbers)
        with np.errstate(over="ignore"):  # what is too far for a quotient is clipped all the same
            if self.varies:
                z = np.clip((numbers - self.median) / self.scale, -FARTHEST, FARTHEST)
                out[:, 0] = z / np.hypot(1, z / CLIP)
            if len(self.edges):
                bins = (numbers[:, None] - self.edges[:-1]) / np.diff(self.edges)
                np.clip(bins, 0, 1, out=out[:, 1 : len(self.edges)], casting="same_kind")
        if self.has_missing:
            out[missing] = 0
            out[:, -1] = missing


@dataclass(eq=False)
class CategoricalColumn:
    """A column of categories: a code for each.

    Code 0 is for all that are rare in training data or were not among them; a missing value is a
    category like others.
    """

    codes: dict[Any, int]

    @classmethod
    def learn(cls, column: Column, min_frequency: int) -> CategoricalColumn:
        """The categories of a column of training data, the most frequent first."""
        counts = Counter(column.objects)
        kept = sorted(
            (level for level, n in counts.items() if n >= min_frequency),
            key=lambda level: (-counts[level], str(level)),
        )
        return cls({level: i for i, level in enumerate(kept, 1)})

    @property
    def levels(self) -> list[Any]:
        """The categories of codes 1, 2, ...; None is a missing value."""
        return list(self.codes)

    def check(self, column: Column) -> None:
        """Refuse numbers where all categories are texts, and texts where all are numbers."""
        level = next((level for level in self.codes if level is not None), None)
        kinds = {is_number(level) for level in self.codes if level is not None}
        if len(kinds) != 1:
            return
        for row, value in enumerate(column.objects):
            if value is not None and is_number(value) not in kinds:
                raise TypeError(
                    f"{column.name}: expected categories such as {level!r}, as in fit, got "
                    f"{value!r} in row {row}"
                )

    def encode(self, column: Column) -> Array:
        """Codes (N,)."""
        get = self.codes.get
        objects = column.objects
        return np.fromiter((get(value, 0) for value in objects), np.intp, len(objects))


class TabularEncoder(TransformerMixin, BaseEstimator):
    """Numbers and categories of a table as one array that a network reads.

    Numbers are scaled by median and quartiles and clipped smoothly, as in RealMLP, and stand beside
    their piecewise-linear encoding, which lets the first layer learn a function of each number with
    a kink at every quantile. Categories become one-hot columns where they are few, and codes for an
    `Embedding` where they are many. Missing numbers have an indicator column; a missing category is
    a category. Categories that are rare, or that come later, have the code 0, all zeros in one-hot
    columns.

    Parameters
    ----------
    categorical_features : sequence of str, int or bool, optional
        Names, or places from 0, of columns that are categories; or a mask of all columns. Default:
        those of strings, of objects that are not numbers, and of a category dtype.
    n_bins : int or "auto", default "auto"
        Bins of the piecewise-linear encoding, between quantiles; 0: none. "auto": 256 for all
        numeric columns together, or one for four rows if that is less; at least 4 and at most 48
        for one column, and at most the square root of the number of rows.
    max_one_hot : int, default 12
        The most categories that one-hot columns are made of.
    min_frequency : int, default 2
        Rows that a category needs for a code of its own.

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Of a frame whose column names are all strings.
    columns_ : list of NumericColumn and CategoricalColumn
        What was learned of each column.
    n_dense_ : int
        Columns of numbers in the result, which come first.
    cardinalities_ : list of int
        For each column of codes behind them, how many codes there are.

    References
    ----------
    Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features in Tabular Deep Learning,
    NeurIPS 2022; Holzmueller, Grinsztajn and Steinwart, Better by Default: Strong Pre-Tuned MLPs
    and Boosted Trees on Tabular Data, NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl.sklearn import TabularEncoder
    >>> X = np.array([[1.0, "a"], [2.0, "b"], [3.0, "b"], [np.nan, "a"]], dtype=object)
    >>> encoder = TabularEncoder(n_bins=2)
    >>> encoder.fit_transform(X).round(2)
    array([[-0.95,  0.  ,  0.  ,  0.  ,  1.  ,  0.  ],
           [ 0.  ,  1.  ,  0.  ,  0.  ,  0.  ,  1.  ],
           [ 0.95,  1.  ,  1.  ,  0.  ,  0.  ,  1.  ],
           [ 0.  ,  0.  ,  0.  ,  1.  ,  1.  ,  0.  ]], dtype=float32)
    """

    def __init__(
        self,
        categorical_features: Sequence[str | int] | None = None,
        n_bins: int | str = "auto",
        max_one_hot: int = 12,
        min_frequency: int = 2,
    ) -> None:
        self.categorical_features = categorical_features
        self.n_bins = n_bins
        self.max_one_hot = max_one_hot
        self.min_frequency = min_frequency

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks are to know."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X: Any, y: Any = None) -> TabularEncoder:
        """Learn quantiles and categories.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            Numbers, booleans, strings, categories; missing values are NaN, None, NA or null.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter or a column does not fit; the message names it.
        """
        self.learn(Columns(X))
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Array:
        """Learn from X, and encode it: as `fit` and `transform`, reading X once."""
        return self.learn_and_encode(Columns(X))

    def learn_and_encode(self, columns: Columns, present: Array | None = None) -> Array:
        """Learn from the columns, or some of their rows, and encode these."""
        return self._encode(self.learn(columns, present))

    def transform(self, X: Any) -> Array:
        """Encode rows.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            The columns that the encoder was fitted with; in a frame in any order.

        Returns
        -------
        ndarray of shape (N, n_dense_ + len(cardinalities_)), float32
            Numbers, and behind them codes of categories.

        Raises
        ------
        ValueError
            A column is missing or one too many, or holds an infinite number.
        TypeError
            A column that held numbers has something else now; or one of categories that were all
            texts, or all numbers, the other.
        """
        check_is_fitted(self)
        columns = Columns(X, self._labels, self.n_features_in_, type(self).__name__)
        return self._encode([self._as_fitted(columns, i) for i in range(len(columns))])

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the result's columns: ``size``, ``size_bin0``, ``color_red``, ``city_code``.

        Parameters
        ----------
        input_features : sequence of str, optional
            Names of the columns, where those of `fit` had none; default: ``x0, x1, ...``.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        numbers, codes = [], []
        names = _check_feature_names_in(self, input_features)
        for name, column, one_hot in zip(names, self.columns_, self._one_hot, strict=True):
            if isinstance(column, NumericColumn):
                numbers += [name] * column.varies
                numbers += [f"{name}_bin{i}" for i in range(max(len(column.edges) - 1, 0))]
                numbers += [f"{name}_missing"] * column.has_missing
            elif one_hot:
                numbers += [f"{name}_{level}" for level in column.codes]
            else:
                codes.append(f"{name}_code")
        return np.array(numbers + codes, dtype=object)

    def _as_fitted(self, columns: Columns, i: int) -> Column:
        """Column i, in numbers if it was then."""
        column, fitted = columns[i], self.columns_[i]
        if isinstance(fitted, CategoricalColumn):
            fitted.check(column)
        elif column.numbers is None:
            for row, value in enumerate(column.objects):
                if value is not None and not is_number(value):
                    raise TypeError(
                        f"{column.name}: expected numbers, as in fit, got {value!r} in row {row}"
                    )
            return Column(column.name, as_numbers(column.objects, column.name))
        return column

    def learn(self, columns: Columns, present: Array | None = None) -> list[Column]:
        """Learn from the columns, or some of their rows; gives them back as they were read."""
        min_frequency = checks.positive_int(self.min_frequency, "min_frequency")
        checks.positive_int(self.max_one_hot, "max_one_hot", 0)
        chosen = self._chosen(columns)
        read = [columns[i] for i in range(len(columns))]
        if present is not None:
            read = [column.take(present) for column in read]
        rows = columns.rows if present is None else len(present)
        categorical = [i in chosen or c.numbers is None for i, c in enumerate(read)]
        n_bins = self._bins(len(read) - sum(categorical), rows)
        self.restore(
            [
                CategoricalColumn.learn(column, min_frequency)
                if is_category
                else NumericColumn.learn(column, n_bins)
                for column, is_category in zip(read, categorical, strict=True)
            ],
            columns.labels,
        )
        return read

    def _chosen(self, columns: Columns) -> set[int]:
        """Places of the columns that `categorical_features` names."""
        given: Any = [] if self.categorical_features is None else self.categorical_features
        given = given.tolist() if hasattr(given, "tolist") else given
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError(
                "categorical_features: expected a list of names or places of columns, or a mask, "
                f"got {given!r}"
            )
        if len(given) == len(columns) and all(isinstance(one, bool) for one in given):
            return {i for i, chosen in enumerate(given) if chosen}
        found = set()
        for i, name in enumerate(given):
            if isinstance(name, str):
                if columns.names is None or name not in columns.names:
                    raise ValueError(
                        f"categorical_features[{i}]: expected the name of a column of X, got "
                        f"{name!r}"
                    )
                found.add(columns.names.index(name))
                continue
            place = checks.positive_int(name, f"categorical_features[{i}]", 0)
            if place >= len(columns):
                raise ValueError(
                    f"categorical_features[{i}]: expected less than the {len(columns)} columns of "
                    f"X, got {place}"
                )
            found.add(place)
        return found

    def _bins(self, numeric: int, rows: int) -> int:
        """Bins for each of so many numeric columns of so many rows."""
        if isinstance(self.n_bins, str):
            checks.one_of(self.n_bins, ("auto",), "n_bins")
            most = min(BINS[1], math.isqrt(rows))
            columns = min(COLUMNS, rows // ROWS)
            return min(max(columns // max(numeric, 1), BINS[0]), most)
        return checks.positive_int(self.n_bins, "n_bins", 0)

    def restore(
        self, columns: list[NumericColumn | CategoricalColumn], labels: list[Any] | None
    ) -> None:
        """Take what was learned of each column, and a frame's labels; all else follows."""
        self._labels = labels
        self.__dict__.pop("feature_names_in_", None)
        if labels is not None and all(isinstance(label, str) for label in labels):
            self.feature_names_in_ = np.array(labels, dtype=object)
        self.columns_ = columns
        self.n_features_in_ = len(columns)
        self._one_hot = [
            isinstance(c, CategoricalColumn) and len(c.codes) <= self.max_one_hot for c in columns
        ]
        self.n_dense_ = 0
        self.cardinalities_: list[int] = []
        for column, one_hot in zip(columns, self._one_hot, strict=True):
            if isinstance(column, NumericColumn):
                self.n_dense_ += column.width
            elif one_hot:
                self.n_dense_ += len(column.codes)
            else:
                self.cardinalities_.append(len(column.codes) + 1)

    def _encode(self, read: list[Column]) -> Array:
        """The result, column by column."""
        out = np.zeros((len(read[0]), self.n_dense_ + len(self.cardinalities_)), np.float32)
        first, code = 0, self.n_dense_
        for column, fitted, one_hot in zip(read, self.columns_, self._one_hot, strict=True):
            if isinstance(fitted, NumericColumn):
                fitted.encode(column, out[:, first : first + fitted.width])
                first += fitted.width
                continue
            codes = fitted.encode(column)
            if one_hot:
                known = np.flatnonzero(codes)
                out[known, first + codes[known] - 1] = 1
                first += len(fitted.codes)
            else:
                out[:, code] = codes
                code += 1
        return out

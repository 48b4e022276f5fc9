"""The ways from looks to labels: one registry. Each is fitted on annotated photos and stored as a few arrays.

What a way has learned is a list of *parts*. A part reads one source (the vectors of a feature set, or the clusters of a
model) and gives every photo a score for each value; the scores of all parts are added, and their softmax is the
probability of the values. So several feature sets need no join of their vectors: each is read for itself, and only
scores meet. Parts are plain NumPy: a task needs no scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax

#: Rows of stored photos that a `nearest` part keeps at most.
MAX_STORED = 20_000
#: Distances of one matrix product, so that a block of any size takes some 64 MB.
_DISTANCES = 2**23


@dataclass(frozen=True)
class Space:
    """Where distances of vectors are taken: x -> (x - ``mean``) @ ``matrix``, float64[d] and float64[d, m].

    ``name`` is `plain` (the vectors, at unit size) or `whitened` (what varies within vehicles counts less).
    """

    name: str
    mean: np.ndarray
    matrix: np.ndarray

    def place(self, x: np.ndarray) -> np.ndarray:
        """float32[n, m] of float[n, d]."""
        placed: np.ndarray = ((x - self.mean.astype(np.float32)) @ self.matrix.astype(np.float32)).astype(np.float32)
        return placed


@dataclass(frozen=True)
class Source:
    """What is known of some photos: vectors float32[n, d] of a feature set in a space, or clusters int32[n] of a model.

    A row of NaN, or a cluster below -1, stands for a photo that the source does not know.
    """

    name: str
    rows: np.ndarray
    space: Space | None = None

    def take(self, which: np.ndarray) -> Source:
        return Source(self.name, self.rows[which], self.space)


@dataclass(frozen=True)
class Part:
    """One source's share in the scores: ``kind`` is `linear`, `nearest` or `table`, and says what ``arrays`` hold.

    linear: ``mean`` [d], ``coef`` [d, values], ``bias`` [values]; the score is linear in the vector.
    nearest: ``mean`` [d], ``matrix`` [d, m], ``rows`` [stored, m], ``values`` [stored], ``shares`` [values], ``k`` and
    ``scale`` [1].
    table: ``log_probabilities`` [clusters + 1, values]; the last row is for noise and photos without a cluster.
    """

    kind: str
    source: str
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """float64[n, values] for vectors float[n, d] or clusters int[n]; unknown rows count as average ones."""
        if self.kind == "table":
            table = self.arrays["log_probabilities"]
            known = (rows >= 0) & (rows < len(table) - 1)
            found: np.ndarray = table[np.where(known, rows, len(table) - 1)]
            return found
        centred = rows.astype(np.float64) - self.arrays["mean"]
        centred[~np.isfinite(centred).all(axis=1)] = 0
        if self.kind == "linear":
            linear: np.ndarray = centred @ self.arrays["coef"] + self.arrays["bias"]
            return linear
        return _nearest_scores(centred @ self.arrays["matrix"], self.arrays)

    def unknown(self) -> np.ndarray:
        """The scores of a photo that the source does not know, float64[values]."""
        if self.kind == "table":
            rows = np.array([-2])
        else:
            rows = np.full((1, len(self.arrays["mean"])), np.nan)
        found: np.ndarray = self.scores(rows)[0]
        return found

    def scaled(self, factor: float) -> Part:
        """A part whose scores are ``factor`` times these."""
        names = {"linear": ("coef", "bias"), "nearest": ("scale",), "table": ("log_probabilities",)}[self.kind]
        return Part(self.kind, self.source, {**self.arrays, **{name: factor * self.arrays[name] for name in names}})


def log_probabilities(parts: Sequence[Part], rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64[n, values]: the log of the probabilities of all parts together; ``rows`` by the name of their source."""
    found: np.ndarray = log_softmax(np.sum([part.scores(rows[part.source]) for part in parts], axis=0), axis=1)
    return found


# -- the ways ------------------------------------------------------------------------------------------

#: Fits on sources, values int64[n] from 0 on, weights float64[n], the number of values, and one number of the way's.
Fit = Callable[[Sequence[Source], np.ndarray, np.ndarray, int, float], list[Part]]

#: How unlikely a value is at least made by a way that has never seen it.
_NEVER = 1e-3


def fit_clusters(
    sources: Sequence[Source], values: np.ndarray, weights: np.ndarray, n_values: int, strength: float
) -> list[Part]:
    """Name the clusters of one model by the looks into them.

    A cluster's probabilities are the weights of its values, with ``strength`` further looks at the overall shares
    (Laplace). Clusters without looks, noise, and photos without a cluster have the overall shares.
    """
    (source,) = sources
    shares = (np.bincount(values, weights, n_values) + 1) / (weights.sum() + n_values)
    known = source.rows >= 0
    n_clusters = int(source.rows.max(initial=-1)) + 1
    counts = np.zeros((n_clusters + 1, n_values))
    np.add.at(counts, (source.rows[known], values[known]), weights[known])
    counts += strength * shares
    return [Part("table", source.name, {"log_probabilities": np.log(counts / counts.sum(axis=1, keepdims=True))})]


def fit_probe(
    sources: Sequence[Source], values: np.ndarray, weights: np.ndarray, n_values: int, c: float
) -> list[Part]:
    """Multinomial logistic regression (scikit-learn's, with its ``C = c``) on the sources side by side.

    Values that no photo has get a probability of a thousandth. Memory: float64[n, columns of all sources].
    """
    from sklearn.linear_model import LogisticRegression

    placed = [_placed(source) for source in sources]
    seen = np.unique(values)
    bias = np.full(n_values, np.log(_NEVER))
    coef = np.zeros((sum(p.shape[1] for p in placed), n_values))
    if len(seen) > 1:
        model = LogisticRegression(C=c, max_iter=300, tol=1e-3)
        model.fit(np.concatenate(placed, axis=1).astype(np.float64), values, sample_weight=weights)
        two = len(seen) == 2
        # Two values are one column of scikit-learn's: half of it for each keeps the difference.
        coef[:, seen] = (np.concatenate([-model.coef_, model.coef_]) / 2 if two else model.coef_).T
        bias[seen] = np.concatenate([-model.intercept_, model.intercept_]) / 2 if two else model.intercept_
        if len(seen) < n_values:
            unseen = np.setdiff1d(np.arange(n_values), seen)
            bias[unseen] = bias[seen].min() + np.log(_NEVER)
    else:
        bias[seen] = 0
    parts: list[Part] = []
    start = 0
    for source, rows in zip(sources, placed, strict=True):
        assert source.space is not None
        own = coef[start : start + rows.shape[1]]
        start += rows.shape[1]
        arrays = {"mean": source.space.mean, "coef": source.space.matrix @ own, "bias": bias if not parts else 0 * bias}
        parts.append(Part("linear", source.name, arrays))
    return parts


def fit_nearest(
    sources: Sequence[Source], values: np.ndarray, weights: np.ndarray, n_values: int, k: float
) -> list[Part]:
    """Votes of the ``k`` nearest annotated photos of one feature set, with one vote more for the overall shares.

    Above MAX_STORED photos the first ones are kept (callers shuffle). ``weights`` count in the overall shares alone.
    """
    (source,) = sources
    assert source.space is not None
    shares = (np.bincount(values, weights, n_values) + 1) / (weights.sum() + n_values)
    arrays = {
        "mean": source.space.mean,
        "matrix": source.space.matrix,
        "rows": _placed(source)[:MAX_STORED].astype(np.float64),
        "values": values[:MAX_STORED].astype(np.float64),
        "shares": shares,
        "k": np.array([float(min(k, len(values)))]),
        "scale": np.ones(1),
    }
    return [Part("nearest", source.name, arrays)]


def _placed(source: Source) -> np.ndarray:
    assert source.space is not None
    placed = source.space.place(source.rows)
    placed[~np.isfinite(placed).all(axis=1)] = 0
    return placed


def _nearest_scores(placed: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    stored, values, shares = arrays["rows"], arrays["values"].astype(np.int64), arrays["shares"]
    k = int(arrays["k"][0])
    squares = (stored**2).sum(axis=1)
    step = max(1, _DISTANCES // len(stored))
    votes = np.tile(shares, (len(placed), 1))
    for start in range(0, len(placed), step):
        x = placed[start : start + step]
        distances = squares - 2 * x @ stored.T
        near = np.argpartition(distances, k - 1, axis=1)[:, :k]
        rows = np.repeat(np.arange(start, start + len(x)), k)
        np.add.at(votes, (rows, values[near].ravel()), 1.0)
    found: np.ndarray = arrays["scale"][0] * np.log(votes / (k + 1))
    return found


@dataclass(frozen=True)
class Way:
    """A way from looks to labels: what it reads (`vectors` or `clusters`), how it is fitted, and the numbers to try."""

    name: str
    reads: str
    fit: Fit
    tries: tuple[float, ...]


#: Simpler ones first: of equally good ones the first is taken.
WAYS: Mapping[str, Way] = {
    way.name: way
    for way in (
        Way("clusters", "clusters", fit_clusters, (1.0,)),
        Way("probe", "vectors", fit_probe, (1.0, 0.1, 10.0)),
        Way("nearest", "vectors", fit_nearest, (1.0, 5.0)),
    )
}

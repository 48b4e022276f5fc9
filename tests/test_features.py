"""Every step and chains of them against scikit-learn in float64, on made data and on the real descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler

from motorpool.errors import CaseError
from motorpool.features import fit as fit_module
from motorpool.features.fit import Fitted, Fitter, transform
from motorpool.features.program import Op, Program
from motorpool.features.spec import FeatureSet, Part, Step, parse_step
from motorpool.lake import Lake

D = 24


def steps(text: str) -> tuple[Step, ...]:
    """``"standard > pca: 8"`` as a chain."""
    result = []
    for word in filter(None, text.split(" > ")):
        kind, _, value = word.partition(": ")
        number = float(value) if "." in value else int(value) if value else None
        result.append(parse_step(kind if number is None else {kind: number}))
    return tuple(result)


def one(descriptor: str, text: str) -> FeatureSet:
    return FeatureSet(f"{descriptor} > {text}", (Part(descriptor),), steps(text))


# -- the truth ---------------------------------------------------------------------------------------


def reference(chain: Sequence[Step], ops: Sequence[Op], x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The chain by scikit-learn in float64, and the last projection's explained_variance_ratio_.

    Components are defined up to sign, and later steps (min-max) see it: each takes the sign of ours.
    """
    x, ratio = x.astype(np.float64), None
    for step, op in zip(chain, ops, strict=True):
        if step.kind in ("pca", "svd"):
            model = _projection(step, x)
            ours = op.fields["components"]
            assert ours.shape == model.components_.T.shape
            model.components_ *= np.sign((model.components_.T * ours).sum(axis=0))[:, None]
            x, ratio = model.transform(x), model.explained_variance_ratio_
        elif step.kind == "clip":
            x = np.clip(x, *np.quantile(x, step.param, axis=0))
        else:
            percent = tuple(100 * q for q in step.param) if isinstance(step.param, tuple) else (25, 75)
            scaler = {
                "standard": StandardScaler(),
                "minmax": MinMaxScaler(),
                "robust": RobustScaler(quantile_range=percent),
                "l2": Normalizer(),
            }[step.kind]
            x = scaler.fit_transform(x)
    return x, ratio


def _projection(step: Step, x: np.ndarray) -> Any:
    if step.kind == "pca":
        return PCA(step.param, svd_solver="full").fit(x)
    k = step.param
    if isinstance(k, float):
        # TruncatedSVD knows no share, so take PCA's rule: the fewest components that exceed it.
        every = TruncatedSVD(min(x.shape) - 1, algorithm="arpack", random_state=0).fit(x)
        k = int((np.cumsum(every.explained_variance_ratio_) <= k).sum()) + 1
    return TruncatedSVD(k, algorithm="arpack", random_state=0).fit(x)


def check(item: Fitted, raw: np.ndarray, tolerance: float) -> None:
    """Fitted set against the reference; ``tolerance`` is a share of the widest output column's spread."""
    chain = item.spec.steps
    ours = item.program.apply([raw])
    truth, ratio = reference(chain, item.program.ops, raw)
    assert ours.dtype == np.float32
    assert ours.shape == truth.shape == (len(raw), item.n_features)
    assert np.abs(ours - truth).max() <= tolerance * truth.std(axis=0).max()
    if ratio is None:
        assert item.spectrum is None
    else:
        assert item.spectrum is not None
        assert item.spectrum.kept == len(ratio)
        assert np.abs(item.spectrum.curve[: len(ratio)] - ratio).max() <= 1e-4
        assert abs(item.spectrum.explained - ratio.sum()) <= 1e-4


# -- made data ---------------------------------------------------------------------------------------


def made(n: int = 400, offset: float = 0.0, seed: int = 11) -> np.ndarray:
    """float32[n, D]: a spectrum that falls by 30 % a component, heavy tails, two constant columns."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(D, D)))[0] * (0.7 ** np.arange(D))[:, None]
    x = rng.standard_t(5, size=(n, D)) @ mix + rng.normal(size=D) + offset
    x[:, 3] = 0.0
    x[:, 17] = 0.1 + offset
    return x.astype(np.float32)


CHAINS = {
    "plain": [
        "",
        "standard",
        "minmax",
        "robust",
        "clip",
        "l2",
        "pca: 8",
        "pca: 0.9",
        "pca: 22",
        "svd: 8",
        "svd: 0.9",
        "standard > pca: 8 > minmax",
        "pca: 8 > standard",
        "pca: 0.99 > standard",
        "minmax > pca: 10 > l2 > pca: 4",
        "robust > pca: 8",
        "l2 > pca: 8",
        "l2 > svd: 5 > standard",
        "clip > standard > pca: 6",
        "pca: 12 > robust > standard",
        "svd: 6 > minmax",
        "standard > l2 > minmax",
        "pca: 10 > pca: 3",
        "standard > minmax > standard",
    ],
    # l2 and svd are not here: with such a mean they look at the mean alone, in float64 too.
    "far": [
        "standard",
        "minmax",
        "robust",
        "pca: 8",
        "pca: 0.9",
        "minmax > pca: 10 > l2 > pca: 4",
        "standard > pca: 8",
        "pca: 8 > standard",
        "robust > pca: 8",
    ],
    "copies": ["standard", "minmax > pca: 8", "pca: 8 > standard", "svd: 8", "minmax > pca: 0.9"],
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    few = made(25, seed=4)
    return {"plain": made(), "far": made(offset=1e4), "copies": np.repeat(few, 16, axis=0)}


@pytest.fixture(scope="module")
def fitted(
    wide: Callable[..., DataFrame], arrays: dict[str, np.ndarray]
) -> Iterator[tuple[Fitter, dict[str, Fitted]]]:
    """All chains over all made descriptors, fitted in one go as a study would."""
    sets = [one(name, text) for name, texts in CHAINS.items() for text in texts]
    with Fitter(wide(3, **arrays), sets, seed=1) as fitter:
        yield fitter, {item.spec.name: item for item in fitter.fit()}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in CHAINS.items() for text in texts], ids=str
)
def test_chains_equal_scikit_learn(
    fitted: tuple[Fitter, dict[str, Fitted]], arrays: dict[str, np.ndarray], name: str, text: str
) -> None:
    check(fitted[1][f"{name} > {text}"], arrays[name], 1e-4)

"""Gaussian mixtures against scikit-learn's from the same starts, against SciPy's densities, and where they fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from motorpool.cluster.mixtures import passes
from motorpool.cluster.mixtures.labels import MixtureLabeller, by_mixtures
from motorpool.cluster.mixtures.mixture import Mixture, Start, fit_mixtures
from motorpool.cluster.mixtures.starts import kmeans_starts
from motorpool.kernels.centroids.gaussians import (
    COVARIANCE_TYPES,
    CovarianceType,
    Density,
    NotPositiveDefiniteError,
    Parameters,
    Sums,
    covariance_shape,
    responsibilities,
)
from motorpool.spark.coreset import measure_spread

QUIET = lambda text: None  # noqa: E731


@pytest.fixture
def blocked(in_process: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Without Spark; what goes through it takes ``on_spark``."""
    return in_process


def clouds(n: int, d: int = 5, k: int = 4, gap: float = 2.5, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """k overlapping clouds of unequal size, width and direction, far from the origin where asked."""
    rng = np.random.default_rng(seed)
    centres, turns = rng.normal(size=(k, d)) * gap, rng.normal(size=(k, d, d)) * 0.6
    which = rng.choice(k, n, p=rng.dirichlet(np.full(k, 5.0)))
    noise = rng.normal(size=(n, 1, d))
    return (centres[which] + (noise @ turns[which])[:, 0] + 0.3 * noise[:, 0] + offset).astype(np.float32)


def rough_start(x: np.ndarray, k: int, kind: CovarianceType, seed: int = 0) -> Start:
    """Random rows as means, equal weights, and for all components the variances of all rows."""
    means = x[np.random.default_rng(seed).choice(len(x), k, replace=False)].astype(np.float64)
    variances = x.astype(np.float64).var(axis=0) + 1e-6
    precisions = {
        "full": np.repeat(np.diag(1 / variances)[None], k, axis=0),
        "tied": np.diag(1 / variances),
        "diag": np.repeat(1 / variances[None], k, axis=0),
        "spherical": np.full(k, 1 / variances.mean()),
    }
    return Start(np.full(k, 1 / k), means, precisions[kind])


def reference(x: np.ndarray, k: int, kind: CovarianceType, start: Start, **settings: float) -> GaussianMixture:
    model = GaussianMixture(
        k,
        covariance_type=kind,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.astype(np.float64))


def full_covariances(model: Mixture) -> np.ndarray:
    k, d = model.means.shape
    covariances = model.covariances
    if model.covariance_type == "spherical":
        covariances = np.repeat(covariances[:, None], d, axis=1)
    if covariances.shape == (k, d) and model.covariance_type != "tied":
        covariances = np.stack([np.diag(v) for v in covariances])
    return np.broadcast_to(covariances, (k, d, d))


def log_densities(x: np.ndarray, model: Mixture) -> np.ndarray:
    """By SciPy's multivariate normal, without any of this package's formulas."""
    parts = [
        np.log(w) + multivariate_normal(m, c).logpdf(x.astype(np.float64)).reshape(len(x))
        for w, m, c in zip(model.weights, model.means, full_covariances(model), strict=True)
    ]
    return logsumexp(parts, axis=0)


def check(found: Mixture, expected: GaussianMixture, x: np.ndarray, rtol: float = 1e-7) -> None:
    """The same model as scikit-learn's, the same scores, and the same labels."""
    wide = x.astype(np.float64)
    scale = np.abs(wide - wide.mean(axis=0)).max()
    assert (found.n_components, found.covariance_type) == (expected.n_components, expected.covariance_type)
    assert found.failure is None
    assert (found.n_iter, found.converged) == (expected.n_iter_, expected.converged_)
    assert np.allclose(found.weights, expected.weights_, rtol=rtol, atol=rtol)
    assert np.allclose(found.means, expected.means_, rtol=rtol, atol=rtol * scale)
    assert found.covariances.shape == expected.covariances_.shape
    assert np.allclose(found.covariances, expected.covariances_, rtol=rtol, atol=rtol * scale**2)
    assert found.log_likelihood == pytest.approx(expected.score(wide), rel=rtol)
    assert found.bic == pytest.approx(expected.bic(wide), rel=rtol)
    assert found.aic == pytest.approx(expected.aic(wide), rel=rtol)
    labels, share, log_density = MixtureLabeller(found).label(x)
    assert (labels.dtype, share.dtype, log_density.dtype) == (np.int32, np.float32, np.float64)
    assert np.array_equal(labels, expected.predict(wide))
    assert np.allclose(share, expected.predict_proba(wide).max(axis=1), atol=1e-5)
    assert np.allclose(log_density, expected.score_samples(wide), rtol=rtol, atol=1e-5)


# -- against scikit-learn ----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_grid_gives_the_mixtures_of_scikit_learn(blocked: Callable[..., DataFrame], offset: float) -> None:
    x = clouds(1200, offset=offset)
    grid = [(k, kind) for k in (1, 3, 4) for kind in COVARIANCE_TYPES]
    starts = [rough_start(x, k, kind) for k, kind in grid]
    models = fit_mixtures(blocked(x), grid, seed=0, starts=starts, max_iter=25)
    for model, (k, kind), start in zip(models, grid, starts, strict=True):
        check(model, reference(x, k, kind, start, max_iter=25), x)
    # They left the shared passes at different times.
    assert len({m.n_iter for m in models}) > 4
    assert {m.converged for m in models} == {True, False}


def test_real_descriptors(blocked: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(30, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    grid: list[tuple[int, CovarianceType]] = [(4, kind) for kind in COVARIANCE_TYPES]
    starts = [rough_start(x, 4, kind) for _, kind in grid]
    models = fit_mixtures(blocked(x), grid, seed=0, starts=starts, max_iter=10)
    for model, (k, kind), start in zip(models, grid, starts, strict=True):
        check(model, reference(x, k, kind, start, max_iter=10), x, rtol=1e-6)


def test_columns_of_very_different_size_and_equal_columns(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(800, seed=2) * np.array([1e3, 10, 1, 0.1, 0.01], np.float32)
    # reg_covar alone keeps this direction open: more than 10^6 times narrower than the data.
    x = np.concatenate([x, x[:, :1]], axis=1)
    start = rough_start(x, 3, "full")
    (model,) = fit_mixtures(blocked(x), [(3, "full")], seed=0, starts=[start], max_iter=8)
    expected = reference(x, 3, "full", start, max_iter=8)
    assert model.log_likelihood == pytest.approx(expected.score(x.astype(np.float64)), rel=1e-4)
    assert (MixtureLabeller(model).label(x)[0] == expected.predict(x.astype(np.float64))).mean() > 0.999


def test_a_constant_column_is_as_wide_as_reg_covar(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(600, d=3)
    x[:, 1] = 12.34
    grid: list[tuple[int, CovarianceType]] = [(2, "full"), (2, "tied"), (2, "diag")]
    starts = [rough_start(x, k, kind) for k, kind in grid]
    models = fit_mixtures(blocked(x), grid, seed=0, starts=starts, max_iter=10, reg_covar=1e-4)
    for model, (k, kind), start in zip(models, grid, starts, strict=True):
        check(model, reference(x, k, kind, start, max_iter=10, reg_covar=1e-4), x)
        assert np.allclose(full_covariances(model)[:, 1, 1], 1e-4, rtol=1e-6)
        assert np.allclose(model.means[:, 1], np.float32(12.34))


# -- starts, partitions, repeats ---------------------------------------------------------------------


def test_starts_are_the_moments_of_the_clusters_of_kmeans(blocked: Callable[..., DataFrame]) -> None:
    rng = np.random.default_rng(0)
    which = np.repeat([0, 1, 2], [300, 200, 100])
    centres = np.array([[0, 0, 0], [90, 0, 0], [0, 90, 0]])
    x = (centres[which] + rng.normal(size=(600, 3)) * [1, 2, 3] + 50).astype(np.float32)
    df = blocked(x)
    mean, wide = measure_spread(df).mean, x.astype(np.float64)
    grid: list[tuple[int, CovarianceType]] = [(3, kind) for kind in COVARIANCE_TYPES]
    total = passes.total_scatter(df, mean)
    assert np.allclose(total, (wide - mean).T @ (wide - mean))
    found = kmeans_starts(df, grid, mean, total, seed=1, n_init=2, reg_covar=0.5, progress=QUIET)
    assert sorted(b.entry for b in found) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(b.seconds > 0 for b in found)
    members = [wide[which == c] for c in range(3)]
    within = np.stack([np.cov(m.T, bias=True) for m in members])
    tied = np.tensordot([0.5, 1 / 3, 1 / 6], within, axes=1) + 0.5 * np.eye(3)
    variances = np.diagonal(within, axis1=1, axis2=2) + 0.5
    expected = {"full": within + 0.5 * np.eye(3), "diag": variances, "spherical": variances.mean(axis=1)}
    for beginning in found:
        of = beginning.parameters
        order = np.argsort(-of.weights)
        assert np.allclose(of.weights[order], [0.5, 1 / 3, 1 / 6])
        assert np.allclose(of.means[order] + mean, [m.mean(axis=0) for m in members])
        if of.covariance_type == "tied":
            assert np.allclose(of.covariances, tied)
        else:
            assert np.allclose(of.covariances[order], expected[of.covariance_type])


def test_a_grid_gives_the_same_models_as_single_fits(blocked: Callable[..., DataFrame]) -> None:
    df = blocked(clouds(700))
    grid: list[tuple[int, CovarianceType]] = [(4, "full"), (2, "tied"), (4, "diag")]
    together = fit_mixtures(df, grid, seed=5, max_iter=3)
    for entry, model in zip(grid, together, strict=True):
        (alone,) = fit_mixtures(df, [entry], seed=5, max_iter=3)
        assert same(model, alone)


def same(left: Mixture, right: Mixture) -> bool:
    return (
        left.n_iter == right.n_iter
        and math.isclose(left.log_likelihood, right.log_likelihood, rel_tol=1e-9)
        and np.allclose(left.means, right.means, atol=1e-6)
        and np.allclose(left.covariances, right.covariances, atol=1e-6)
    )


def test_the_same_result_again_and_on_any_partitions(
    blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = clouds(700, seed=3)
    grid: list[tuple[int, CovarianceType]] = [(3, "full"), (3, "tied")]
    df = blocked(x, 5)
    first = fit_mixtures(df, grid, seed=2, max_iter=3)
    for left, right in zip(first, fit_mixtures(df, grid, seed=2, max_iter=3), strict=True):
        assert np.array_equal(left.covariances, right.covariances)
        assert left.log_likelihood == right.log_likelihood
    # Large sums take another way to the driver.
    monkeypatch.setattr(passes, "_LARGE_STATE", 0)
    for partitions in (1, 5):
        again = fit_mixtures(blocked(x, partitions), grid, seed=2, max_iter=3)
        assert all(same(left, right) for left, right in zip(first, again, strict=True))


def test_the_best_of_several_starts_wins(blocked: Callable[..., DataFrame]) -> None:
    df = blocked(clouds(500, k=6, gap=1.0, seed=4))
    one, three = (fit_mixtures(df, [(5, "spherical")], seed=8, n_init=n, max_iter=4)[0] for n in (1, 3))
    # The first start is the same in both.
    assert three.log_likelihood >= one.log_likelihood - 1e-9


def test_the_search_ends_at_max_iter(on_spark: Callable[..., DataFrame]) -> None:
    x = clouds(500)
    said: list[str] = []
    start = rough_start(x, 3, "full")
    (model,) = fit_mixtures(on_spark(x), [(3, "full")], seed=0, starts=[start], max_iter=2, tol=0, progress=said.append)
    assert (model.n_iter, model.converged) == (2, False)
    # Two iterations and one pass that scores what they led to.
    assert said == [f"pass {i + 1}: {n} of 1 mixtures still moving" for i, n in enumerate([1, 0, 0])]
    assert model.log_likelihood == pytest.approx(log_densities(x, model).mean(), rel=1e-10)


# -- few, equal and broken rows ----------------------------------------------------------------------


def test_one_component_is_the_mean_and_the_covariance(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(400, offset=20)
    (model,) = fit_mixtures(blocked(x), [(1, "full")], seed=0, reg_covar=0.0)
    wide = x.astype(np.float64)
    assert np.array_equal(model.weights, [1.0])
    assert np.allclose(model.means[0], wide.mean(axis=0), rtol=1e-12)
    assert np.allclose(model.covariances[0], np.cov(wide.T, bias=True), rtol=1e-10)
    assert (model.n_iter, model.converged) == (2, True)


def test_one_row(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(1, d=3)
    (model,) = fit_mixtures(blocked(x, 1), [(1, "full")], seed=0, reg_covar=0.25)
    assert np.allclose(model.means, x)
    assert np.allclose(model.covariances, 0.25 * np.eye(3))
    assert model.log_likelihood == pytest.approx(-1.5 * math.log(2 * math.pi * 0.25))


# scikit-learn warns that KMeans finds fewer clusters than it was asked for: that is the point here.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_more_components_than_distinct_rows(blocked: Callable[..., DataFrame]) -> None:
    distinct = np.array([[0, 0], [5, 0], [0, 5]], np.float32)
    x = np.repeat(distinct, [20, 30, 50], axis=0)
    grid: list[tuple[int, CovarianceType]] = [(k, kind) for k in (3, 5) for kind in COVARIANCE_TYPES]
    for model in fit_mixtures(blocked(x), grid, seed=0, reg_covar=1e-3):
        assert model.failure is None
        assert model.converged
        held = model.weights > 1e-9
        nearest = np.square(model.means[:, None] - distinct).sum(axis=2)
        assert np.allclose(nearest[held].min(axis=1), 0, atol=1e-9)
        shares = np.bincount(nearest.argmin(axis=1), model.weights, 3)
        assert np.allclose(shares, [0.2, 0.3, 0.5])
        assert np.allclose(full_covariances(model)[held], 1e-3 * np.eye(2), atol=1e-9)
        peak = -math.log(2 * math.pi * 1e-3) + (np.log([0.2, 0.3, 0.5]) @ [0.2, 0.3, 0.5])
        assert model.log_likelihood == pytest.approx(peak, rel=1e-6)


def test_a_covariance_that_loses_its_inverse_fails_its_model_alone(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(300, d=3)
    x[:, 1] = 7
    grid: list[tuple[int, CovarianceType]] = [(2, kind) for kind in COVARIANCE_TYPES]
    df = blocked(x)
    starts = [rough_start(x, 2, kind) for _, kind in grid]
    # Given starts fail behind the first iteration, those from KMeans at once.
    for given, iterations in ((starts, 1), (None, 0)):
        *failed, spherical = fit_mixtures(df, grid, seed=0, starts=given, reg_covar=0.0, max_iter=3)
        for model in failed:
            name = rf"mixture of 2 components \({model.covariance_type}\): .* is not positive"
            advice = rf"after {iterations} iterations: raise reg_covar \(it is 0\) or ask for fewer components"
            with pytest.raises(ValueError, match=rf"{name}.* {advice}"):
                MixtureLabeller(model)
            assert (model.converged, model.n_iter) == (False, iterations)
            assert np.isnan([model.log_likelihood, model.bic, model.aic]).all()
            assert np.isnan(model.means).all()
            assert model.covariances.shape == covariance_shape(model.covariance_type, 2, 3)
        assert spherical.failure is None
        assert spherical.n_iter == 3
        assert spherical.log_likelihood == pytest.approx(log_densities(x, spherical).mean(), rel=1e-10)


def test_a_row_that_is_not_finite_fails_the_models(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(50, d=3)
    x[7, 1] = np.inf
    grid: list[tuple[int, CovarianceType]] = [(1, kind) for kind in COVARIANCE_TYPES]
    starts = [rough_start(clouds(50, d=3), 1, kind) for _, kind in grid]
    with np.errstate(invalid="ignore"):
        models = fit_mixtures(blocked(x), grid, seed=0, starts=starts)
    assert all(m.failure and "not positive" in m.failure for m in models)


@pytest.mark.parametrize(
    ("grid", "settings", "message"),
    [
        ([(2, "full"), (7, "full")], {}, r"n_components = 7 asks for more components than there are rows \(6\)"),
        ([], {}, "the grid is empty"),
        ([(0, "full")], {}, "n_components = 0: must be at least 1"),
        ([(2, "round")], {}, "covariance_type = 'round': must be one of full, tied, diag, spherical"),
        ([(2, "diag")], {"max_iter": 0}, "max_iter = 0: must be at least 1"),
        ([(2, "diag")], {"n_init": 0}, "n_init = 0: must be at least 1"),
        ([(2, "diag")], {"reg_covar": -1.0}, "reg_covar = -1: must not be negative"),
        ([(2, "diag")], {"starts": []}, "0 starts for 1 mixtures"),
    ],
)
def test_what_makes_no_sense_is_refused(
    blocked: Callable[..., DataFrame],
    grid: Sequence[tuple[int, CovarianceType]],
    settings: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_mixtures(blocked(clouds(6)), grid, seed=0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(np.ones(2) / 2, np.zeros((2, 4)), np.ones((2, 5))), r"start 0 \(2 components, diag\): .*\(2, 4\)"),
        (Start(np.ones(2), np.zeros((2, 5)), np.ones((2, 5))), "they sum to 2"),
        (Start(np.ones(2) / 2, np.zeros((2, 5)), np.zeros((2, 5))), "its precisions are not positive definite"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused(blocked: Callable[..., DataFrame], start: Start, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_mixtures(blocked(clouds(6)), [(2, "diag")], seed=0, starts=[start])


# -- labels and kernels ------------------------------------------------------------------------------


def mixture(kind: CovarianceType, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Mixture:
    return Mixture(len(weights), kind, weights, means, covariances, 0.0, 0.0, 0.0, 1, True, 0.0)


def test_labels_of_every_image(blocked: Callable[..., DataFrame]) -> None:
    x = clouds(300, d=2)
    x[-1] = 1e6
    means = np.array([[0.0, 0.0], [3.0, 1.0]])
    models = [
        mixture("diag", np.array([0.3, 0.7]), means, np.array([[1.0, 2.0], [3.0, 0.5]])),
        # The components cannot be told apart: the lower number wins.
        mixture("full", np.array([0.5, 0.5]), np.ones((2, 2)), np.repeat(np.eye(2)[None], 2, axis=0)),
    ]
    labelled = by_mixtures(blocked(x), models)
    assert labelled.sizes == (2, 2)
    rows = sorted(labelled.wide().collect(), key=lambda r: r["image_id"])
    assert [r["image_id"] for r in rows] == list(range(300))
    for i, model in enumerate(models):
        labels, share, log_density = MixtureLabeller(model).label(x)
        assert [r["clusters"][i] for r in rows] == labels.tolist()
        assert [r["strengths"][i] for r in rows] == share.tolist()
        assert [r["distances"][i] for r in rows] == [None] * 300
        assert np.allclose(log_density, log_densities(x, model), rtol=1e-9)
        assert np.isfinite(share).all()
        assert log_density.argmin() == 299
    assert {r["clusters"][1] for r in rows} == {0}
    assert {r["strengths"][1] for r in rows} == {0.5}


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_densities_are_those_of_scipy(kind: CovarianceType) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3))
    root = rng.normal(size=(2, 3, 3))
    full = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(3)
    covariances = {"full": full, "tied": full[0], "diag": full[:, range(3), range(3)], "spherical": full[:, 0, 0]}
    model = mixture(kind, np.array([0.25, 0.75]), rng.normal(size=(2, 3)), covariances[kind])
    log_joint = Density(Parameters(kind, model.weights, model.means, model.covariances)).log_joint(x)
    share, log_density = responsibilities(log_joint)
    assert np.allclose(log_density, log_densities(x, model), rtol=1e-12)
    assert np.allclose(share.sum(axis=1), 1)
    assert np.allclose(np.log(share), log_joint - log_density[:, None])


def test_a_component_without_weight_takes_no_row() -> None:
    density = Density(Parameters("spherical", np.array([0.0, 1.0]), np.zeros((2, 2)), np.ones(2)))
    share, log_density = responsibilities(density.log_joint(np.ones((3, 2))))
    assert np.array_equal(share, [[0, 1]] * 3)
    assert np.allclose(log_density, -math.log(2 * math.pi) - 1)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_sums_in_parts_are_the_weighted_moments(kind: CovarianceType) -> None:
    rng = np.random.default_rng(2)
    x, share = rng.normal([1, 2, 3], size=(60, 3)), rng.dirichlet([1, 1], 60)
    parts = [Sums(kind, np.array([[1.0, 2, 3], [4, 5, 6]])) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 20), slice(20, 60)), strict=True):
        part.add(x[rows], np.square(x[rows]), share[rows])
    parts[0].merge(parts[1])
    found = parts[0].parameters(0.1, x.T @ x)
    means = np.stack([np.average(x, axis=0, weights=w) for w in share.T])
    within = np.stack([np.cov(x.T, aweights=w, bias=True) for w in share.T])
    variances = within[:, range(3), range(3)] + 0.1
    expected = {
        "full": within + 0.1 * np.eye(3),
        "tied": np.tensordot(share.mean(axis=0), within, axes=1) + 0.1 * np.eye(3),
        "diag": variances,
        "spherical": variances.mean(axis=1),
    }
    assert np.allclose(found.weights, share.mean(axis=0))
    assert np.allclose(found.means, means)
    assert np.allclose(found.covariances, expected[kind])


def test_a_component_without_rows_keeps_its_place() -> None:
    sums = Sums("full", np.array([[1.0, 2.0], [30.0, 40.0]]))
    sums.add(np.array([[1.0, 2.0], [1.0, 4.0]]), None, np.array([[1.0, 0.0], [1.0, 0.0]]))
    found = sums.parameters(0.5)
    assert np.allclose(found.means, [[1, 3], [30, 40]])
    assert np.allclose(found.covariances, [[[0.5, 0], [0, 1.5]], [[0.5, 0], [0, 0.5]]])
    assert np.allclose(found.weights, [1, 0])


def test_a_singular_covariance_is_named() -> None:
    flat = np.stack([np.eye(2), np.ones((2, 2))])
    with pytest.raises(NotPositiveDefiniteError, match="the covariance of component 1 is not positive definite"):
        Density(Parameters("full", np.ones(2) / 2, np.zeros((2, 2)), flat))
    with pytest.raises(NotPositiveDefiniteError, match="a variance of component 1 is not positive"):
        Density(Parameters("diag", np.ones(2) / 2, np.zeros((2, 2)), np.array([[1.0, 1.0], [1.0, 0.0]])))

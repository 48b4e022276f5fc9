"""Steps on values so small or so large that their squares leave float32: as on ordinary ones, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from cases import run_of, write_case
from motorpool.errors import CaseError
from motorpool.kernels.moments import Gram, Moments, gram
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest

ROWS = 90
#: Steps whose result does not depend on the unit of the values.
CHAINS = {
    "standard": ["standard"],
    "minmax": ["minmax"],
    "robust": ["robust"],
    "pca": [{"pca": 2}, "standard"],
    "svd": [{"svd": 2}, "standard"],
    "l2": ["l2"],
    "whiten": [{"vehicle_whiten": 2}],
    "within": [{"vehicle_within": 2}, "standard"],
}


def made(rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(rows, 5)) @ rng.normal(size=(5, 5)) + np.repeat(rng.normal(size=(rows // 3, 5)), 3, axis=0)
    x[:, 3] = 7
    return x.astype(np.float32)


@pytest.mark.parametrize("power", [-130, -100, -60, 0, 60, 100, 120])
def test_moments_and_products_of_any_size(power: int) -> None:
    x = np.ldexp(made(), power).astype(np.float32)
    # One column beside others of another size.
    x[:, 1] = made()[:, 1]
    moments, rest, products = Moments(), Moments(), Gram()
    moments.update(x[:40])
    rest.update(x[40:])
    moments.merge(rest)
    truth = np.cov(x.astype(np.float64).T)
    # What is float32's: rounding of the block's mean and of its products.
    lost = 1e-5 * np.sqrt(np.outer(*[np.diag(truth) + 1e-6 * np.square(x.astype(np.float64)).mean(axis=0)] * 2))
    assert (np.abs(moments.stats().cov - truth) <= lost).all()
    products.add(x)
    wide = x.astype(np.float64)
    assert np.allclose(products.total() / (wide.T @ wide), 1, rtol=1e-4)


def test_products_of_ordinary_values_are_as_they_were() -> None:
    x = made()
    found = gram(x)
    assert found.dtype == np.float32
    assert np.array_equal(found, x.T @ x)


Read = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def vectors(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, collect: Callable[[DataFrame, str], np.ndarray]
) -> Read:
    folder = tmp_path_factory.mktemp("range")
    sizes = {"plain": 0, "tiny": -100, "huge": 100}
    case = write_case(folder / "case", ROWS, {k: np.ldexp(made(), p).astype(np.float32) for k, p in sizes.items()})
    sets = [{"name": f"{d}.{c}", "descriptor": d, "steps": steps} for d in sizes for c, steps in CHAINS.items()]
    ctx = run_of(spark, case, folder / "lake", "parquet", features=sets)
    run_ingest(ctx)
    run_features(ctx)

    def read(name: str) -> np.ndarray:
        return collect(ctx.lake.read("features", features=name), "vector")

    return read


@pytest.mark.parametrize("chain", CHAINS)
def test_the_unit_of_the_values_does_not_matter(vectors: Read, chain: str) -> None:
    plain = vectors(f"plain.{chain}")
    assert plain.shape[0] == ROWS
    assert plain.std() > 0.1
    for size in ("tiny", "huge"):
        found = vectors(f"{size}.{chain}")
        assert np.allclose(found, plain, atol=1e-3 * plain.std()), size


def test_what_cannot_be_scaled_is_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    x = made()
    x[:, 0] *= np.float32(1e-30)
    x[5, 0] = 1e30
    case = write_case(tmp_path / "case", ROWS, {"osnet": x})
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", features=[{"descriptor": "osnet", "steps": ["robust"]}])
    run_ingest(ctx)
    with pytest.raises(CaseError, match=r"feature set osnet-robust: the vector of image 5 comes out infinite or NaN"):
        run_features(ctx)
    assert not ctx.lake.exists("feature_sets")

"""Appended images on the lake's maps: where the fitted images of the same vectors are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession
from sklearn.decomposition import PCA

from cases import contents, run_of, uneven_blobs, write_case, write_paths
from motorpool.config.run import CaseConfig
from motorpool.pipeline.context import Context
from motorpool.pipeline.growing.append import run_append
from motorpool.pipeline.run import STAGES

ROWS, SAMPLE = 220, 100
STUDY: dict[str, Any] = {
    "features": [{"name": "o", "descriptor": "osnet", "steps": []}],
    "projections": {"methods": ["pca", "umap"], "dims": [2, 3], "sample": SAMPLE, "n_neighbors": 8},
}


def run(ctx: Context) -> None:
    """What maps take of a run."""
    for stage in ("ingest", "features", "project"):
        STAGES[stage](ctx)


def places(ctx: Context, name: str) -> tuple[np.ndarray, np.ndarray]:
    """float32[n, dims] of the fitted images, and of the appended ones, in the order of their ids."""
    found = ctx.lake.read("projections", method=name).orderBy("image_id").toPandas()
    assert found["z"].isna().all() == name.endswith("2")
    x = found[["x", "y", "z"][: int(name[-1])]].to_numpy()
    fitted = (found["image_id"] < ROWS).to_numpy()
    return x[fitted], x[~fitted]


def test_copies_of_fitted_images_are_where_these_are(spark: SparkSession, tmp_path: Path) -> None:
    """By PCA all of them; by UMAP all that were not in the sample, which is where its layout put it."""
    x = uneven_blobs(ROWS)[:, :5].astype(np.float32)
    for name in ("case", "new", "far"):
        write_case(tmp_path / name, ROWS, {"osnet": x if name != "far" else x + 3})
        write_paths(tmp_path / name / "images_paths.csv", [f"{name}/{i}.jpg" for i in range(ROWS)])
    ctx = run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **STUDY)
    run(ctx)
    before = contents(ctx.lake)
    run_append(ctx, CaseConfig(path=str(tmp_path / "new")))
    for name in ("pca2", "pca3", "umap2", "umap3"):
        fitted, new = places(ctx, name)
        assert len(new) == ROWS
        same = np.isclose(fitted, new, rtol=1e-5, atol=1e-5).all(axis=1)
        assert same.all() if name.startswith("pca") else same.sum() >= ROWS - SAMPLE
    after = contents(ctx.lake)
    assert set(before["projections"]) < set(after["projections"])
    assert before["projection_methods"] == after["projection_methods"]

    # Others go by the axes of the fitted images alone.
    run_append(ctx, CaseConfig(path=str(tmp_path / "far")))
    _, new = places(ctx, "pca3")
    expected = np.abs(PCA(3).fit(x.astype(np.float64)).transform(x + 3.0))
    np.testing.assert_allclose(np.abs(new[ROWS:]), expected, rtol=1e-4, atol=1e-4)
    before = contents(ctx.lake)
    run_append(ctx, CaseConfig(path=str(tmp_path / "far")))
    run(ctx)
    assert contents(ctx.lake) == before

    # A map less, and one more: appended images are on what is left, and on what has come.
    config = STUDY | {"projections": STUDY["projections"] | {"methods": ["pca"], "dims": [2]}}
    fewer = run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **config)
    run(fewer)
    rows = fewer.lake.read("projections").toPandas()
    assert (set(rows["method"]), len(rows)) == ({"pca2"}, 3 * ROWS)
    config["projections"] = config["projections"] | {"dims": [2, 3]}
    more = run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **config)
    run(more)
    rows = more.lake.read("projections").toPandas()
    assert rows.groupby("method").size().to_dict() == {"pca2": 3 * ROWS, "pca3": 3 * ROWS}
    again = rows[rows["method"] == "pca3"].sort_values("image_id")[["x", "y", "z"]].to_numpy()
    np.testing.assert_allclose(again[2 * ROWS :], new[ROWS:], rtol=1e-5, atol=1e-5)


def test_maps_from_before_axes_were_kept(spark: SparkSession, tmp_path: Path) -> None:
    """They are made again, and then place new images."""
    x = uneven_blobs(60)[:, :5].astype(np.float32)
    for name in ("case", "new"):
        write_case(tmp_path / name, 60, {"osnet": x})
        write_paths(tmp_path / name / "images_paths.csv", [f"{name}/{i}.jpg" for i in range(60)])
    study = STUDY | {"projections": {"methods": ["pca"]}}
    ctx = run_of(spark, tmp_path / "case", tmp_path / "lake", "parquet", **study)
    run(ctx)
    (row,) = ctx.lake.rows("projection_methods")
    ctx.lake.replace_rows("projection_methods", [row | {"axes": None}], {"features": ["o"]})
    run_append(ctx, CaseConfig(path=str(tmp_path / "new")))
    assert ctx.lake.count("projections") == 60
    run(ctx)
    found = ctx.lake.read("projections").orderBy("image_id").toPandas()[["x", "y"]].to_numpy()
    np.testing.assert_allclose(found[60:], found[:60], rtol=1e-5, atol=1e-5)

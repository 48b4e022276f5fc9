"""How far clusters follow columns of ``images``: the figures of scikit-learn, second runs, and the warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import normalized_mutual_info_score

from cases import blobs, image_paths, run_of, write_attributes, write_case
from motorpool.cluster.ensemble.columns import Followed, follow_columns
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.run import STAGES

ROWS = 90
STUDY: dict[str, Any] = {
    "features": [
        {"name": "a", "descriptor": "a", "steps": [{"pca": 3}]},
        {"name": "b", "descriptor": "b", "steps": [{"pca": 3}]},
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [3, 4]},
            # One that leaves noise, and one that finds a single cluster, and so has no labels.
            {"algorithm": "dbscan", "eps": [1.2, 1000.0], "min_samples": 4, "features": ["a"]},
        ],
        "min_cluster_share": 0.0,
    },
    "consensus": {"n_clusters": [3]},
}


# -- the figure --------------------------------------------------------------------------------------


def followed(spark: SparkSession, clusters: dict[str, list[int]], columns: dict[str, list[str | None]]) -> Any:
    labels = [(m, i, c) for m, of in clusters.items() for i, c in enumerate(of)]
    images = pd.DataFrame({"image_id": range(len(next(iter(columns.values())))), **columns})
    schema = ", ".join(["image_id BIGINT", *(f"`{c}` STRING" for c in columns)])
    return follow_columns(
        spark.createDataFrame(labels, "model_id STRING, image_id BIGINT, cluster INT").repartition(3),
        spark.createDataFrame(images.astype(object).where(images.notna(), None), schema),
        list(columns),
        len(images),
    )


def test_the_figure_is_that_of_scikit_learn(spark: SparkSession) -> None:
    rng = np.random.default_rng(1)
    n = 500
    camera = rng.choice(["a", "b", "c", "d'`e"], n).tolist()
    names = {"a": 0, "b": 1, "c": 2, "d'`e": 2}
    clusters = {
        "random": rng.integers(-1, 5, n).tolist(),
        "same": [names[c] for c in camera],
        "partly": [names[c] if i % 3 else int(rng.integers(-1, 3)) for i, c in enumerate(camera)],
        "single": [-1] * n,
        "own": list(range(n)),
    }
    columns: dict[str, list[str | None]] = {
        "camera": camera,
        "hour": [None if i % 7 == 0 else str(i % 24) for i in range(n)],
        "flat": ["x"] * n,
        "empty": [None] * n,
        "lone": ["y", *[None] * (n - 1)],
    }
    found = followed(spark, clusters, columns)
    assert {column for _, column in found} == {"camera", "hour", "flat", "lone"}
    for (model, column), ours in found.items():
        known = [i for i, value in enumerate(columns[column]) if value is not None]
        theirs = normalized_mutual_info_score([columns[column][i] for i in known], [clusters[model][i] for i in known])
        assert ours.nmi == pytest.approx(theirs, abs=1e-9), (model, column)
        assert ours.n_images == len(known)
    assert found["single", "flat"].nmi == 1.0
    assert found["single", "camera"].nmi == 0.0
    assert found["random", "camera"].by_chance > found["random", "camera"].nmi


def test_chance_is_what_shuffled_values_stay_below() -> None:
    """Of 2,000 draws without any connection a few exceed it: 2 are expected."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, 300), rng.integers(0, 6, 300)
    drawn = np.array([normalized_mutual_info_score(a, rng.permutation(b)) for _ in range(2000)])
    entropy = [float(-(p * np.log(p)).sum()) for p in (np.bincount(a) / 300, np.bincount(b) / 300)]
    limit = Followed(300, 4, 6, *entropy, sum(entropy)).by_chance
    assert 0 <= (drawn > limit).sum() <= 8
    assert (drawn > 0.7 * limit).sum() > 8
    # Where images are too few to tell anything, nothing is above it.
    assert Followed(20, 20, 10, np.log(20), np.log(10), np.log(20)).by_chance == 1.0


# -- the stage ---------------------------------------------------------------------------------------


def attributes(hour: int = 5) -> list[dict[str, object]]:
    """The camera is the group of the vectors of ``a``; the hour is anything."""
    return [
        {"path": path, "camera": "" if i == 7 else "xyz"[i % 3], "hour": str(i * 7 % hour), "own": str(i)}
        for i, path in enumerate(image_paths(ROWS))
    ]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    arrays = {"a": blobs(ROWS, 5), "b": blobs(ROWS, 4, groups=4, seed=5)}
    return write_case(tmp_path / "case", ROWS, arrays, attributes())


def run(spark: SparkSession, case: Path, lake: Path, nuisance: dict[str, Any] | None, **more: Any) -> Context:
    section = {} if nuisance is None else {"nuisance": nuisance}
    ctx = run_of(spark, case, lake, more.pop("lake_format", "parquet"), **{**STUDY, **section, **more})
    for name in ("ingest", "features", "cluster", "consensus", "nuisance"):
        STAGES[name](ctx)
    return ctx


def figures(ctx: Context) -> dict[tuple[str, str], Any]:
    return {(r["model_id"], r["column_name"]): r for r in ctx.lake.rows("nuisance")}


def check(ctx: Context, columns: dict[str, list[str]], max_nmi: float) -> None:
    """Every model with labels, against scikit-learn; warnings against the threshold."""
    found = figures(ctx)
    labels = ctx.lake.fitted(ctx.lake.read("labels")).toPandas()
    assert set(found) == {(m, c) for m in labels["model_id"].unique() for c in columns}
    warned: dict[str, list[str]] = {}
    for (model_id, column), row in found.items():
        of = labels[labels["model_id"] == model_id].sort_values("image_id")
        values = np.array(columns[column])[of["image_id"]]
        known = values != ""
        theirs = normalized_mutual_info_score(values[known], of["cluster"][known])
        assert row["nmi"] == pytest.approx(theirs, abs=1e-9)
        assert (row["n_images"], row["n_values"]) == (known.sum(), len(set(values[known])))
        if row["nmi"] > max(max_nmi, row["nmi_by_chance"]):
            warned.setdefault(model_id, []).append(column)
    for row in ctx.lake.rows("models", ["model_id", "warning"]):
        columns_of = warned.get(row["model_id"])
        assert (row["warning"] is None) == (columns_of is None)
        for column in columns_of or ():
            assert f"{column} (NMI {found[row['model_id'], column]['nmi']:.2f})" in row["warning"]


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
def test_every_model_is_compared_and_warned_of(
    spark: SparkSession, case: Path, tmp_path: Path, lake_format: str
) -> None:
    ctx = run(spark, case, tmp_path / "lake", {"columns": ["camera", "hour"]}, lake_format=lake_format)
    told = {c: [str(r[c]) for r in attributes()] for c in ("camera", "hour")}
    check(ctx, told, 0.2)
    best = ctx.lake.leaderboard().where("features = 'a' AND algorithm = 'kmeans' AND n_clusters = 3").first()
    assert best is not None
    assert best["warning"] == "its clusters follow camera (NMI 1.00)"
    assert {r["status"] for r in ctx.lake.rows("models", ["status"])} == {"ok", "degenerate"}


def test_second_runs(spark: SparkSession, case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lake = tmp_path / "lake"
    caplog.set_level("INFO")
    first = figures(run(spark, case, lake, {"columns": ["camera"]}))
    told = {c: [str(r[c]) for r in attributes()] for c in ("camera", "hour")}
    # The same again measures nothing.
    assert figures(run(spark, case, lake, {"columns": ["camera"]})) == first
    assert "nuisance: all 6 models of the lake are compared, nothing to do" in caplog.text
    # Another threshold warns anew of what is measured.
    ctx = run(spark, case, lake, {"columns": ["camera"], "max_nmi": 0.999})
    assert figures(ctx) == first
    check(ctx, {"camera": told["camera"]}, 0.999)
    # A further column leaves the first as it is; so does a further model.
    ctx = run(spark, case, lake, {"columns": ["hour", "camera"]})
    check(ctx, told, 0.2)
    assert first.items() <= figures(ctx).items()
    more = {"models": [*STUDY["cluster"]["models"], {"algorithm": "kmeans", "k": 2}], "min_cluster_share": 0.0}
    ctx = run(spark, case, lake, {"columns": ["hour", "camera"]}, cluster=more)
    check(ctx, told, 0.2)
    assert first.items() <= figures(ctx).items()
    # Other values of a column are judged again, and those of the other stay.
    write_attributes(case / "attributes.csv", attributes(hour=3))
    ctx = run(spark, case, lake, {"columns": ["hour", "camera"]}, cluster=more)
    check(ctx, told | {"hour": [str(r["hour"]) for r in attributes(hour=3)]}, 0.2)
    assert first.items() <= figures(ctx).items()
    assert any("hour" in (r["warning"] or "") for r in ctx.lake.rows("models", ["warning"]))
    # A run that was stopped before the warnings writes them.
    rows = [row | {"warning": None} for row in ctx.lake.rows("models")]
    ctx.lake.overwrite_rows("models", rows)
    STAGES["nuisance"](ctx)
    assert any("hour" in (r["warning"] or "") for r in ctx.lake.rows("models", ["warning"]))
    # A column that is no longer named goes out, and without the section everything does.
    ctx = run(spark, case, lake, {"columns": ["camera"]}, cluster=more)
    check(ctx, {"camera": told["camera"]}, 0.2)
    ctx = run(spark, case, lake, None, cluster=more)
    assert not figures(ctx)
    assert {r["warning"] for r in ctx.lake.rows("models", ["warning"])} == {None}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "nuisance.columns"),
        ({"columns": []}, "nuisance.columns"),
        ({"columns": ["camera", "camera"]}, "`columns` names 'camera' twice"),
        ({"columns": ["Path"]}, "columns: 'Path': every image has its own: name an attribute"),
        ({"columns": ["vehicle_id"]}, "vehicle agreement compares every model with the vehicles"),
        ({"columns": ["camera"], "max_nmi": 1}, "nuisance.max_nmi"),
    ],
    ids=str,
)
def test_sections_that_cannot_work(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"lake": {"path": "x"}, "nuisance": section})


def test_columns_that_cannot_work(spark: SparkSession, case: Path, tmp_path: Path) -> None:
    asked = {"columns": ["Camera"]}
    message = "nuisance.columns: 'Camera': the .* has no such column; its attributes are camera, hour, own: name one"
    raw = {"case": {"path": str(case)}, "lake": {"path": str(tmp_path / "lake")}, "nuisance": asked, **STUDY}
    (problem,) = look(parse_config(raw), ["ingest", "nuisance"]).problems
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(problem)
    lake = tmp_path / "lake"
    with pytest.raises(ConfigError, match=message):
        run(spark, case, lake, asked)
    with pytest.raises(ConfigError, match="'own': it has 90 values for 90 images, so few images share one"):
        run(spark, case, lake, {"columns": ["own"]})
    assert not figures(run(spark, case, lake, None))

"""A score that is added in one place comes out wherever scores are read, also in lakes that were made without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import Row, SparkSession

from cases import blobs, run_of, write_case
from motorpool import cli
from motorpool.config.run import LakeConfig, ReportConfig
from motorpool.kernels.cluster_sums import ClusterSpread, ClusterSums
from motorpool.kernels.scores import SCORES, Score
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES, VIEW_COMMENTS
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.report import write_report

#: Ball & Hall (1965): the mean over the clusters of the mean squared distance to the cluster's mean.
BALL_HALL = Score(
    "ball_hall",
    "Ball-Hall",
    "Ball-Hall index: low is good.",
    "lower",
    compute=lambda found: float((found.squared / found.sizes).mean()),
    ranked=True,
    decimals=2,
    reading="Lower is better, of models with as many clusters.",
    short="B.-H.",
)


@contextmanager
def registered(score: Score) -> Iterator[None]:
    SCORES.register(score)
    try:
        yield
    finally:
        SCORES.unregister(score.name)


def ball_hall(x: np.ndarray, labels: np.ndarray) -> float:
    parts = [x[labels == c] for c in np.unique(labels)]
    return float(np.mean([np.square(p - p.mean(axis=0)).sum(axis=1).mean() for p in parts]))


# -- the registry ------------------------------------------------------------------------------------


def test_a_score_is_registered_once_and_taken_out_again() -> None:
    before = list(SCORES)
    with registered(BALL_HALL):
        assert list(SCORES) == [*before, "ball_hall"]
        with pytest.raises(ValueError, match="'ball_hall': is registered already"):
            SCORES.register(BALL_HALL)
    assert list(SCORES) == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "Ball-Hall", "compute": len}, "must be a column's name"),
        ({"name": "x"}, "needs `compute`"),
        ({"name": "x", "compute": len, "measured": "fit"}, "needs `compute` if it is measured on clusters, and only"),
        ({"name": "x", "compute": len, "ranked": True, "shown": "models"}, "so the leaderboard must show it"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Score(**{"title": "t", "meaning": "m.", "better": "lower", **entry})  # type: ignore[arg-type]


def test_columns_follow_the_registry() -> None:
    columns = list(TABLES["models"].comments)
    with registered(BALL_HALL):
        table, view = TABLES["models"], VIEW_COMMENTS["leaderboard"]
        assert ", ball_hall DOUBLE, " in table.columns
        assert set(table.comments) - set(columns) == {"ball_hall"}
        assert table.comments["ball_hall"] == view["ball_hall"] == BALL_HALL.meaning
        assert "by Calinski-Harabasz, Davies-Bouldin, vehicle agreement and Ball-Hall, 0" in view["score"]
    assert list(TABLES["models"].comments) == columns
    assert "ball_hall" not in VIEW_COMMENTS["leaderboard"]


def test_it_is_computed_from_the_clusters() -> None:
    x, labels = blobs(90, 4).astype(np.float64), (np.arange(90) % 3)[:, None] - 1
    sums = ClusterSums([3], 4)
    sums.update(x, labels)
    spread = ClusterSpread(sums)
    spread.update(np.arange(90), x, labels)
    with registered(BALL_HALL):
        (found,) = spread.scores()
    kept = labels[:, 0] >= 0
    # The third cluster is empty: it counts nowhere.
    assert found.values["ball_hall"] == pytest.approx(ball_hall(x[kept], labels[kept, 0]))


# -- a run ---------------------------------------------------------------------------------------------


def by_model(rows: list[Row]) -> dict[str, Row]:
    return {row["model_id"]: row for row in rows}


def test_it_comes_out_of_a_run_that_goes_on_from_one_without_it(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = blobs(60, 4) + np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    case = write_case(tmp_path / "case", 60, {"x": x})

    def clustered(ks: list[int]) -> Context:
        models = {"models": [{"algorithm": "kmeans", "k": ks}]}
        return run_of(spark, case, tmp_path / "lake", features=[{"descriptor": "x"}], cluster=models)

    first = clustered([2])
    for stage in (run_ingest, run_features, run_cluster):
        stage(first)
    before = by_model(first.lake.leaderboard().collect())
    with registered(BALL_HALL):
        # The score that the lake lacks is null, and moves no model.
        assert [r["ball_hall"] for r in first.lake.rows("models")] == [None]
        found = by_model(first.lake.leaderboard().collect())
        assert {m: r["score"] for m, r in found.items()} == {m: r["score"] for m, r in before.items()}

        second = clustered([2, 3, 4])
        run_cluster(second)
        lake = second.lake
        models = by_model(lake.read("models").collect())
        assert sum(row["ball_hall"] is None for row in models.values()) == 1
        for model_id, row in models.items():
            if model_id not in before:
                labels = np.array(lake.read("labels", model_id=model_id).orderBy("image_id").toPandas()["cluster"])
                assert row["ball_hall"] == pytest.approx(ball_hall(x.astype(np.float64), labels), rel=1e-5)

        board = lake.leaderboard().orderBy("rank").collect()
        assert board == sorted(board, key=lambda r: r["rank"])
        for row in board:
            assert row["score"] == pytest.approx(mean_rank(row, board), abs=1e-4)

        cli.summarise(lake, 1.0)
        assert "B.-H." in capsys.readouterr().out

        write_report(lake, ReportConfig(), tmp_path / "report", None, seed=0)
        page = (tmp_path / "report" / "index.html").read_text()
        best = models[board[0]["model_id"]]["ball_hall"]
        assert re.search(r">Ball-Hall †</button>", page)
        assert f">{best:.2f}</td>" in page
        assert "Calinski-Harabasz, Davies-Bouldin and Ball-Hall, each among the models of one feature set, and" in page
        alone = r"Ball-Hall alone would (choose it too, among 2 models|put \d of the 2 models) on x"
        assert re.search(alone, page)
        assert BALL_HALL.reading in page
        assert (tmp_path / "report" / "figures" / "scores-ball_hall.png").is_file()
    # A lake with the column is read without the score as well.
    assert "ball_hall" not in lake.leaderboard().columns


def mean_rank(row: Row, board: list[Row]) -> float:
    """The mean of four fractional ranks, in a single feature set; the middle for scores that are not defined.

    Scores are compared by seven digits.
    """
    signs = {"calinski_harabasz": -1, "davies_bouldin": 1, "vehicle_agreement": -1, "ball_hall": 1}
    found = []
    for name, sign in signs.items():
        values = [sign * np.float32(r[name]) for r in board if r[name] is not None]
        own = row[name]
        found.append(0.5 if own is None else (sum(v < sign * np.float32(own) for v in values) + 0.5) / len(values))
    return sum(found) / len(found)


def test_a_catalogs_views_are_there_for_tables_without_it(spark: SparkSession) -> None:
    columns = {"model_id": "a", "features": "f", "algorithm": "kmeans", "n_clusters": 2, "calinski_harabasz": 9.0}

    def models(model_id: str, **more: object) -> list[dict[str, object]]:
        row = dict.fromkeys(f for f in Lake.schema("models").fieldNames() if f != "created_at")
        return [row | columns | {"model_id": model_id, "status": "ok"} | more]

    try:
        Lake(spark, LakeConfig(schema="motorpool_scores")).replace_rows("models", models("a"), {"model_id": ["a"]})
        with registered(BALL_HALL):
            lake = Lake(spark, LakeConfig(schema="motorpool_scores"))
            lake.register()
            assert spark.sql("SELECT ball_hall FROM leaderboard").collect() == [Row(ball_hall=None)]
            lake.replace_rows("models", models("b", ball_hall=3.5), {"model_id": ["b"]})
            other = spark.newSession().sql("SELECT ball_hall FROM motorpool_scores.leaderboard ORDER BY ball_hall")
            assert [r["ball_hall"] for r in other.collect()] == [None, 3.5]
    finally:
        spark.catalog.dropTempView("leaderboard")
        spark.sql("USE default")
        spark.sql("DROP SCHEMA IF EXISTS motorpool_scores CASCADE")

"""Votes of the photos of a vehicle against counting by hand; agreement on vehicles that no step has seen; ranking."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cases import contents, image_paths, run_of, write_case
from motorpool.cluster.vehicle_votes import DISSENTING, vote
from motorpool.config.load import load_config, parse_config
from motorpool.config.run import LakeConfig
from motorpool.errors import CaseError, ConfigError
from motorpool.features.holdout import fitted_on
from motorpool.features.spec import FeatureSet, Part, Step
from motorpool.kernels.vehicle_pairs import PairCounts
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES
from motorpool.pipeline import vehicle_agreement
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import run_pipeline
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.vehicles import run_vehicles
from motorpool.pipeline.vehicle_agreement import joint_part

ROOT = Path(__file__).resolve().parents[2]

# -- votes -------------------------------------------------------------------------------------------


def count_votes(photos: Mapping[int, int]) -> tuple[int, int, float, list[int]]:
    """Cluster, n_photos, agreement and dissenting photos of one vehicle, from its labels by image."""
    counts = Counter(photos.values())
    most = max(counts.values())
    leading = [c for c, n in counts.items() if n == most]
    won = min([c for c in leading if c >= 0], default=-1)
    against = sorted(i for i, c in photos.items() if c != won)
    return won, len(photos), most / len(photos), against[:DISSENTING]


def voted(
    spark: SparkSession, labels: Mapping[str, Sequence[int | None]], vehicles: Sequence[str | None], partitions: int = 3
) -> dict[tuple[str, str], tuple[int, int, float, list[int]]]:
    """`vote` over labels by model; None is an image without a label, or without a vehicle."""
    rows = [(m, i, c) for m, column in labels.items() for i, c in enumerate(column) if c is not None]
    named = [(i, v) for i, v in enumerate(vehicles) if v is not None]
    found = vote(
        spark.createDataFrame(rows, "model_id STRING, image_id BIGINT, cluster INT").repartition(partitions),
        spark.createDataFrame(named, "image_id BIGINT, vehicle_id STRING").repartition(partitions),
    )
    assert found.select(*TABLES["vehicles"].schema.fieldNames()).schema.simpleString() == found.schema.simpleString()
    held = found.collect()
    result = {
        (r["model_id"], r["vehicle_id"]): (r["cluster"], r["n_photos"], r["agreement"], r["dissenting"]) for r in held
    }
    assert len(result) == len(held)
    return result


@pytest.mark.parametrize("partitions", [1, 5])
def test_votes_as_counted_by_hand(spark: SparkSession, partitions: int) -> None:
    rng = np.random.default_rng(partitions)
    vehicles = [None if i % 11 == 0 else f"v{rng.integers(40)}" for i in range(400)]
    labels: dict[str, list[int | None]] = {
        m: [None if rng.random() < 0.05 else int(c) for c in rng.integers(-1, k, 400)] for m, k in (("a", 2), ("b", 5))
    }
    expected = {}
    for model, column in labels.items():
        for vehicle in {v for v in vehicles if v is not None}:
            photos = {i: c for i, c in enumerate(column) if c is not None and vehicles[i] == vehicle}
            if photos:
                expected[model, vehicle] = count_votes(photos)
    found = voted(spark, labels, vehicles, partitions)
    assert found.keys() == expected.keys()
    for key, (cluster, n_photos, agreement, dissenting) in expected.items():
        assert found[key] == (cluster, n_photos, pytest.approx(agreement), dissenting), key


def test_ties_go_to_the_lower_cluster_and_to_noise_last(spark: SparkSession) -> None:
    cases: list[tuple[list[int], tuple[int, int, float, list[int]]]] = [
        ([4], (4, 1, 1.0, [])),
        ([-1], (-1, 1, 1.0, [])),
        ([2, 1], (1, 2, 0.5, [0])),
        ([-1, 3], (3, 2, 0.5, [0])),
        ([-1, 0, 3, -1], (-1, 4, 0.5, [1, 2])),
        ([3, -1, -1, 1, 3, 1], (1, 6, 1 / 3, [0, 1, 2, 4])),
    ]
    found = voted(spark, {f"m{i}": labels for i, (labels, _) in enumerate(cases)}, ["v"] * 6)
    assert found == {(f"m{i}", "v"): expected for i, (_, expected) in enumerate(cases)}


def test_a_vehicle_with_many_photos_lists_the_first_that_dissent(spark: SparkSession) -> None:
    labels = [i % 5 % 2 for i in range(1000)]
    against = [i for i, c in enumerate(labels) if c == 1]
    assert len(against) == 400
    found = voted(spark, {"m": labels}, ["v"] * 1000, 7)["m", "v"]
    assert found == (0, 1000, 0.6, against[:DISSENTING])


# -- the leaderboard ---------------------------------------------------------------------------------


def board_of(spark: SparkSession, folder: Path, models: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    schema = TABLES["models"].schema
    empty: dict[str, Any] = dict.fromkeys(schema.fieldNames()) | {"status": "ok", "n_clusters": 2}
    rows = [tuple((empty | dict(values) | {"model_id": m}).values()) for m, values in models.items()]
    lake = Lake(spark, LakeConfig(path=str(folder / "lake"), format="parquet"))
    lake.overwrite("models", spark.createDataFrame(rows, schema))
    lake.register()
    return spark.table("leaderboard").orderBy("rank").collect()


def row(features: str, ch: float | None, db: float | None, va: float | None, part: str | None = None) -> dict[str, Any]:
    names = ("features", "calinski_harabasz", "davies_bouldin", "vehicle_agreement", "vehicle_part")
    values = (features, *(None if v is None else float(v) for v in (ch, db, va)), part)
    return dict(zip(names, values, strict=True))


def test_models_of_views_are_ranked_among_themselves_and_come_last(spark: SparkSession, tmp_path: Path) -> None:
    plain = {"p1": row("p", 9, 0.5, 0.4, "whole"), "p2": row("p", 2, 0.9, 0.1)}
    # High agreement is nothing to be proud of where clusters are views: w2 has most of all.
    views = {"w1": row("w", 9, 0.1, 0.0, "within"), "w2": row("w", 5, 0.2, 0.99, "within")}
    merged = {"m1": row("m", 9, 0.5, None, "between")}
    board = board_of(spark, tmp_path, plain | views | merged)
    assert [r["model_id"] for r in board] == ["p1", "m1", "p2", "w1", "w2"]
    assert [r["rank"] for r in board] == [1, 2, 3, 4, 5]
    scores = {r["model_id"]: r["score"] for r in board}
    middle = (0.5 + 0.5 + 0.5) / 3
    assert scores == pytest.approx({"p1": 0.25, "m1": middle, "p2": 0.75, "w1": 1 / 3, "w2": 2 / 3}, abs=1e-4)
    assert {r["model_id"]: r["rank_in_features"] for r in board} == {"p1": 1, "p2": 2, "m1": 1, "w1": 1, "w2": 2}
    shown = {r["model_id"]: (r["vehicle_agreement"], r["vehicle_part"]) for r in board}
    assert shown["w2"] == (0.99, "within")
    # Without views the others have the same scores and ranks.
    without = board_of(spark, tmp_path, plain | merged)
    assert [r.asDict() for r in without] == [r.asDict() for r in board[:3]]


def test_agreement_alone_ranks_a_model_of_views_nowhere(spark: SparkSession, tmp_path: Path) -> None:
    models = {"c1": row("consensus", None, None, 0.7, "within"), "c2": row("consensus", None, None, 0.7, "between")}
    assert [r["model_id"] for r in board_of(spark, tmp_path, models)] == ["c2"]


# -- which part, which vehicles ----------------------------------------------------------------------


def feature_set(*steps: str) -> FeatureSet:
    return FeatureSet("-".join(steps) or "plain", (Part("d"),), tuple(Step(s) for s in steps))


def test_what_feature_sets_keep_of_the_vehicles() -> None:
    plain, whitened = feature_set("standard"), feature_set("vehicle_whiten")
    mean, within = feature_set("vehicle_whiten", "vehicle_mean"), feature_set("vehicle_residual", "standard")
    assert feature_set("vehicle_within").vehicle_part == "within"
    sets = (plain, whitened, mean, within)
    assert [f.vehicle_part for f in sets] == ["whole", "between", "between", "within"]
    assert FeatureSet("j", (Part("d", (Step("vehicle_whiten"),)), Part("e"))).vehicle_part == "between"
    for together, part in (([plain], "whole"), ([plain, mean], "between"), ([whitened, within, plain], "within")):
        assert joint_part(together) == part


# -- a study with all kinds of feature sets ----------------------------------------------------------

ROWS, PHOTOS = 180, 3
PLAIN: list[dict[str, Any]] = [{"name": "plain", "descriptor": "vdc_type", "steps": [{"pca": 4}]}]
AWARE: list[dict[str, Any]] = [
    {"name": "between", "descriptor": "vdc_type", "steps": [{"pca": 5}, {"vehicle_whiten": 2}]},
    {"name": "merged", "descriptor": "vdc_type", "steps": [{"pca": 5}, "vehicle_mean"]},
    {"name": "within", "descriptor": "vdc_type", "steps": [{"pca": 5}, "vehicle_residual"]},
]
STUDY: dict[str, Any] = {
    "features": PLAIN + AWARE,
    "vehicles": {"fit_share": 0.4, "models_per_features": 1},
    "cluster": {"models": [{"algorithm": "kmeans", "k": [2, 4], "n_init": 2}], "min_cluster_share": 0.01},
    "consensus": {"n_clusters": 2},
}


#: The plain feature set alone.
ALONE = {k: v for k, v in STUDY.items() if k != "consensus"} | {"features": PLAIN}


def cluster_up(ctx: Context) -> None:
    """The pipeline up to the models."""
    for stage in (run_ingest, run_features, run_cluster):
        stage(ctx)


def photographed() -> np.ndarray:
    """float32[ROWS, 6]: four kinds of vehicle, two views, noise enough for photos to go astray."""
    rng = np.random.default_rng(5)
    vehicle, view = np.arange(ROWS) // PHOTOS, rng.integers(2, size=ROWS)
    kinds, views = rng.normal(size=(4, 6)) * 2, rng.normal(size=(2, 6)) * 3
    return (kinds[vehicle % 4] + views[view] + rng.normal(size=(ROWS, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("vehicles") / "case", ROWS, {"vdc_type": photographed()})


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = run_of(spark, case, tmp_path_factory.mktemp("lake") / "lake", "parquet", **STUDY)
    run_pipeline(ctx)
    return ctx


def models_of(ctx: Context) -> list[Any]:
    return ctx.lake.read("models").orderBy("features", "n_clusters").collect()


def by_pairs(ctx: Context, model_id: str, share: float | None) -> tuple[float | None, int]:
    """Agreement of a model and the vehicles it is measured on, from the tables: all vehicles, or those not seen."""
    photos = ctx.lake.read("labels", model_id=model_id).join(ctx.lake.read("images"), "image_id")
    if share is not None:
        photos = photos.where(~fitted_on(F.col("vehicle_id"), share))
    held = photos.select("vehicle_id", "cluster").orderBy("vehicle_id").toPandas()
    counts = PairCounts(1)
    counts.update(held["vehicle_id"].to_numpy(object), held["cluster"].to_numpy(np.int32)[:, None])
    return counts.agreement()[0], int((held["vehicle_id"].value_counts() > 1).sum())


def test_agreement_is_measured_on_vehicles_that_no_step_has_seen(done: Context) -> None:
    measured = set()
    for model in models_of(done):
        expected = by_pairs(done, model["model_id"], 0.4)
        if model["features"] == "merged":
            assert (model["vehicle_agreement"], model["agreement_vehicles"]) == (None, None)
        elif model["features"] != "consensus":
            assert model["vehicle_agreement"] == pytest.approx(expected[0], abs=1e-12)
            assert model["agreement_vehicles"] == expected[1]
            # Another figure than that of all vehicles, or nothing is shown by it.
            assert model["vehicle_agreement"] != pytest.approx(by_pairs(done, model["model_id"], None)[0], abs=1e-6)
            measured.add(expected[1])
    # Plain feature sets too, so all figures are of the same vehicles.
    assert len(measured) == 1
    assert 10 < measured.pop() < ROWS // PHOTOS - 10


def test_models_tell_which_part_they_are_of(done: Context) -> None:
    parts = {m["features"]: m["vehicle_part"] for m in models_of(done)}
    assert parts == {
        "plain": "whole",
        "between": "between",
        "merged": "between",
        "within": "within",
        "consensus": "between",
    }


def test_a_consensus_of_merged_vehicles_claims_no_agreement_and_views_take_no_part(done: Context) -> None:
    (model,) = done.lake.read("models", features="consensus").collect()
    members = done.lake.read("agreement").where("features_a <> 'consensus'").collect()
    assert {f for r in members for f in (r["features_a"], r["features_b"])} - {"consensus"} == {
        "plain",
        "between",
        "merged",
    }
    assert (model["vehicle_agreement"], model["agreement_vehicles"]) == (None, None)


def test_a_consensus_of_sets_that_keep_photos_apart_is_measured_alike(
    done: Context, spark: SparkSession, case: Path
) -> None:
    before = {m["model_id"] for m in models_of(done)}
    named = STUDY | {"consensus": {"n_clusters": 2, "features": ["plain", "within"]}}
    run_consensus(run_of(spark, case, Path(str(done.config.lake.path)), "parquet", **named))
    (model,) = [m for m in models_of(done) if m["model_id"] not in before]
    assert (model["vehicle_agreement"], model["agreement_vehicles"]) == pytest.approx(
        by_pairs(done, model["model_id"], 0.4)
    )
    assert model["vehicle_part"] == "within"


def test_views_come_last(done: Context) -> None:
    done.lake.register()
    board = done.spark.table("leaderboard").where("features <> 'consensus'").orderBy("rank").collect()
    assert [r["features"] == "within" for r in board] == [False] * 6 + [True] * 2
    assert sorted(r["rank_in_features"] for r in board[-2:]) == [1, 2]


# -- a lake that grows -------------------------------------------------------------------------------


def test_plain_models_are_measured_again_when_vehicle_steps_join_them(
    done: Context, spark: SparkSession, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_up(run_of(spark, case, tmp_path / "lake", "parquet", **ALONE))
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", **(ALONE | {"features": PLAIN + AWARE[:1]}))
    before = models_of(ctx)
    for model in before:
        assert (model["vehicle_agreement"], model["agreement_vehicles"]) == pytest.approx(
            by_pairs(ctx, model["model_id"], None)
        )
        assert model["agreement_vehicles"] == ROWS // PHOTOS

    # Stopped behind the first of two groups, it goes on with the second.
    monkeypatch.setattr(vehicle_agreement, "_MODELS_AT_ONCE", 1)
    remeasured: list[list[str]] = []
    once = vehicle_agreement._remeasure

    def stopped(ctx: Context, images: DataFrame, ids: list[str], n_vehicles: int) -> None:
        if len(remeasured) == 1:
            remeasured.append([])
            raise KeyboardInterrupt
        once(ctx, images, ids, n_vehicles)
        remeasured.append(ids)

    monkeypatch.setattr(vehicle_agreement, "_remeasure", stopped)
    with pytest.raises(KeyboardInterrupt):
        cluster_up(ctx)
    cluster_up(ctx)
    assert [len(ids) for ids in remeasured] == [1, 0, 1]

    after = {m["model_id"]: m for m in models_of(ctx)}
    whole = {m["model_id"]: m for m in models_of(done)}
    for model in before:
        again = after[model["model_id"]].asDict()
        for column in ("vehicle_agreement", "agreement_vehicles"):
            assert again[column] == whole[model["model_id"]][column]
        kept = {k: v for k, v in model.asDict().items() if k not in ("vehicle_agreement", "agreement_vehicles")}
        assert kept.items() <= again.items()
    # Everything is measured on the same vehicles now: nothing is left to do.
    state = contents(ctx.lake)
    cluster_up(ctx)
    assert contents(ctx.lake) == state
    assert len(remeasured) == 3


# -- the stage ---------------------------------------------------------------------------------------


def test_the_table_of_vehicles(done: Context) -> None:
    done.lake.register()
    board = done.spark.table("leaderboard").where("rank_in_features = 1 AND features <> 'within'").collect()
    rows = done.lake.read("vehicles").collect()
    # The consensus named in another test came later; views are no labels of vehicles.
    models = {r["model_id"] for r in rows}
    assert {r["features"] for r in board if r["model_id"] in models} == {"plain", "between", "merged"}
    names = {r["image_id"]: r["vehicle_id"] for r in done.lake.read("images").collect()}
    for model_id in models:
        labels = {r["image_id"]: r["cluster"] for r in done.lake.read("labels", model_id=model_id).collect()}
        mine = {r["vehicle_id"]: r for r in rows if r["model_id"] == model_id}
        assert mine.keys() == set(names.values())
        for vehicle, found in mine.items():
            expected = count_votes({i: c for i, c in labels.items() if names[i] == vehicle})
            assert (found["cluster"], found["n_photos"], found["agreement"], found["dissenting"]) == expected
    merged = {r["model_id"] for r in board if r["features"] == "merged"}
    assert {r["agreement"] for r in rows if r["model_id"] in merged} == {1.0}


def asking(done: Context, most: int | str) -> Context:
    section = done.config.vehicles.model_copy(update={"models_per_features": most})
    return Context(done.config.model_copy(update={"vehicles": section}), done.spark, done.lake)


def test_more_models_and_none(done: Context, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(done.lake)
    # As a first run would have it: nobody asks for votes.
    run_vehicles(asking(done, 0))
    assert contents(done.lake) == before | {"vehicles": []}
    run_vehicles(done)
    before = contents(done.lake)
    run_vehicles(asking(done, "all"))
    ranked = done.lake.leaderboard().where("vehicle_part <> 'within'").select("model_id").collect()
    held = done.lake.read("vehicles").groupBy("model_id").count().collect()
    assert {r["model_id"] for r in held} == {r["model_id"] for r in ranked}
    assert {r["count"] for r in held} == {ROWS // PHOTOS}
    # What was there has not been made again.
    after = contents(done.lake)
    assert set(before["vehicles"]) <= set(after["vehicles"])
    logging.getLogger("motorpool").propagate = True
    with caplog.at_level(logging.INFO, "motorpool"):
        run_vehicles(asking(done, "all"))
    assert "vehicles: all models of the study are in the lake" in caplog.text
    assert contents(done.lake) == after
    # Models that are no longer among the best go out.
    run_vehicles(asking(done, 1))
    assert set(contents(done.lake)["vehicles"]) < set(after["vehicles"])


def test_no_vehicles_no_table(spark: SparkSession, case: Path, tmp_path: Path) -> None:
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"vehicle_pattern": None}, **ALONE)
    cluster_up(ctx)
    run_vehicles(ctx)
    assert not ctx.lake.exists("vehicles")
    assert {(m["vehicle_agreement"], m["agreement_vehicles"]) for m in models_of(ctx)} == {(None, 0)}


# -- the column that names the vehicles --------------------------------------------------------------

Ingested = Callable[..., Context]


@pytest.fixture
def ingested(spark: SparkSession, tmp_path: Path) -> Ingested:
    """Ingests 12 images with the attributes given, None for no such file."""

    def run(attributes: Sequence[Mapping[str, object]] | None, **options: Any) -> Context:
        folder = write_case(tmp_path / "case", 12, {"osnet": np.ones((12, 2), np.float32)}, attributes)
        ctx = run_of(spark, folder, tmp_path / "lake", "parquet", case_options=options)
        run_ingest(ctx)
        return ctx

    return run


def tracks(rows: int = 12) -> list[dict[str, object]]:
    """Two images a track, the last one without; a vehicle_id of their own, which says nothing."""
    return [
        {"path": p, "Track no": None, "vehicle_id": "same", "track": f"t{i // 2}" if i < rows - 1 else ""}
        for i, p in enumerate(image_paths(rows))
    ]


def test_a_column_names_the_vehicles(ingested: Ingested, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{k: v for k, v in r.items() if k != "Track no"} for r in tracks()]
    logging.getLogger("motorpool").propagate = True
    with caplog.at_level(logging.WARNING, "motorpool"):
        ctx = ingested(rows, vehicle_column="track")
    images = ctx.lake.read("images").orderBy("image_id")
    assert images.columns == ["image_id", "path", "vehicle_id", "track"]
    found = [(r["vehicle_id"], r["track"]) for r in images.collect()]
    assert found == [*((f"t{i // 2}", f"t{i // 2}") for i in range(11)), (None, None)]
    assert "case.vehicle_column 'track' names no vehicle in 1 of 12 paths" in caplog.text


def test_the_column_may_be_vehicle_id(ingested: Ingested) -> None:
    rows = [{"path": r["path"], "vehicle_id": r["track"]} for r in tracks()]
    ctx = ingested(rows, vehicle_column="vehicle_id")
    assert [r["vehicle_id"] for r in ctx.lake.read("images").orderBy("image_id").collect()][:3] == ["t0", "t0", "t1"]


@pytest.mark.parametrize(
    ("attributes", "column", "parts"),
    [
        (None, "track", ["case.vehicle_column 'track'", "no attributes file", "case.attributes"]),
        (tracks(), "Track", ["attributes.csv", "no column 'Track'", "path, Track no, vehicle_id, track"]),
        (tracks(), "path", ["case.vehicle_column 'path'", "cannot be the path column"]),
    ],
)
def test_columns_that_cannot_name_vehicles(
    ingested: Ingested, attributes: Any, column: str, parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(CaseError) as found:
        ingested(attributes, vehicle_column=column)
    for part in parts:
        assert part in str(found.value)
    assert not (tmp_path / "lake").exists()


# -- the config --------------------------------------------------------------------------------------


def parsed(**sections: Any) -> Any:
    return parse_config({"lake": {"path": "x"}, **sections})


def test_the_config_by_default() -> None:
    config = parsed(case={"path": "x"})
    assert config.vehicles.models_per_features == 3
    assert config.case.vehicle_column is None
    assert config.case.vehicle_pattern is not None
    named = parsed(case={"path": "x", "vehicle_column": "track"}, vehicles={"models_per_features": "all"})
    assert (named.case.vehicle_column, named.case.vehicle_pattern) == ("track", None)
    assert named.vehicles.models_per_features == "all"


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        (
            {"case": {"path": "x", "vehicle_column": "a", "vehicle_pattern": "(a)"}},
            ["case:", "either", "vehicle_column"],
        ),
        ({"case": {"path": "x", "vehicle_column": ""}}, ["case.vehicle_column", "''"]),
        ({"vehicles": {"models_per_features": -1}}, ["vehicles.models_per_features", "-1"]),
        ({"vehicles": {"models_per_features": "best"}}, ["vehicles.models_per_features", "'best'", "'all'"]),
    ],
)
def test_what_the_config_refuses(sections: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        parsed(**sections)
    for part in parts:
        assert part in str(found.value)


def test_views_take_no_part_in_a_consensus_that_names_no_feature_sets() -> None:
    sets = [*PLAIN, AWARE[2]]
    with pytest.raises(ConfigError, match="1 feature sets with models_per_features = 1"):
        parsed(features=sets, consensus={"n_clusters": 2})
    assert parsed(features=sets, consensus={"n_clusters": 2, "features": ["plain", "within"]}).consensus is not None


def test_the_ready_study() -> None:
    config = load_config(ROOT / "conf" / "vehicle_aware.yaml")
    parts = [f.vehicle_part for f in config.feature_sets]
    assert [parts.count(p) for p in ("whole", "between", "within")] == [4, 5, 3]
    n_models = sum(
        len(list(grid.variants(config.seed)))
        for grid in config.cluster.models
        for f in config.feature_sets
        if grid.features is None or f.name in grid.features
    )
    assert n_models == 134

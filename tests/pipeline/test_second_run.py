"""A second run with a changed config gives the tables of a first run with it, for every stage and section.

A lake keeps what is dear: descriptors, feature sets, models with what belongs to them. They may be more than those of a
first run, but those of the config's own are the same.
"""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from pyarrow.dataset import HivePartitioning, dataset
from pyspark.sql import SparkSession

from cases import CLOCK, blobs, image_paths, run_of, write_attributes, write_case
from motorpool.errors import LakeError
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.cluster import run_cluster
from motorpool.pipeline.stages.consensus import run_consensus
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.interpret import run_interpret
from motorpool.pipeline.stages.outliers import run_outliers
from motorpool.pipeline.stages.project import run_project
from motorpool.pipeline.stages.vehicles import run_vehicles
from motorpool.pipeline.study import forget, outdate

ROWS = 60
Stage = Callable[[Context], None]
#: Behind the features; with the tables that each of them makes from the others'.
DERIVED: dict[Stage, tuple[str, ...]] = {
    run_consensus: ("agreement",),
    run_vehicles: ("vehicles",),
    run_outliers: ("outliers", "outlier_reasons", "outlier_methods"),
    run_project: ("projections", "projection_methods"),
    run_interpret: ("cluster_members", "interpretations"),
}
STUDY: dict[str, Any] = {
    "features": [
        {"name": "a", "descriptor": "a", "steps": [{"pca": 3}]},
        {"name": "b", "descriptor": "b", "steps": [{"pca": 3}]},
        {"name": "w", "descriptor": "b", "steps": [{"vehicle_whiten": 2}]},
    ],
    "vehicles": {"models_per_features": 2},
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [3, 5]},
            {"algorithm": "kmeans", "k": [2], "features": ["a", "b"]},
            {"algorithm": "dbscan", "eps": [1.0, 2.5], "min_samples": 4, "features": ["a"]},
            {"algorithm": "dbscan", "eps": [2.0], "min_samples": 3, "features": ["a"]},
            {"algorithm": "hdbscan", "min_cluster_size": 5, "features": ["a"]},
            {"algorithm": "hdbscan", "min_cluster_size": 9, "features": ["a"]},
        ],
    },
    "consensus": {"n_clusters": [2, 3]},
    "outliers": {"methods": ["isolation_forest", "dbscan_noise", "glosh"], "share": 0.1, "features": ["a", "b"]},
    "projections": {"methods": ["pca"], "dims": [2, 3], "perplexity": 5, "features": ["a", "b"]},
    "report": {"members": 2, "sample": 0},
}
#: Tables of which a lake may hold more than a first run writes, and what tells the config's own rows.
KEPT = {
    "models": ["model_id"], "labels": ["model_id"], "clusters": ["model_id"], "parameters": ["model_id"],
    "feature_sets": ["features"], "features": ["features"], "k_distances": ["features", "k"],
    "descriptors": ["descriptor"], "sources": ["descriptor"],
}  # fmt: skip


def changed(study: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The study with other values, by ``section__key``, or by ``section``; None takes it out."""
    study = deepcopy(study)
    for name, value in values.items():
        section, _, key = name.partition("__")
        if key:
            study[section][key] = value
        elif value is None:
            del study[section]
        else:
            study[section] = value
    return study


def rows_of(lake: Lake, table: str) -> pa.Table:
    """A table of a Parquet lake, read without Spark: these tests compare some twenty of them a time."""
    folder = Path(str(lake.root)) / table
    kinds = pa.schema([(name, pa.string()) for name in TABLES[table].partition_by])
    if lake.exists(table):
        rows = dataset(str(folder), partitioning=HivePartitioning(kinds)).to_table()
        if rows.num_rows:
            return rows
    # No table, or one whose last partition has gone.
    return pa.table({name: pa.array([], pa.string()) for name in TABLES[table].schema.fieldNames()})


def told(rows: pa.Table, table: str, keys: dict[str, set[Any]]) -> list[str]:
    """Rows of the given keys as sorted text, but for the clock."""
    for key in KEPT.get(table, []):
        chosen = pa.array(sorted(keys[key])).cast(rows.schema.field(key).type)
        rows = rows.filter(pc.is_in(rows.column(key), chosen))
    kept = rows.select([c for c in rows.column_names if c not in CLOCK])
    return sorted(str(sorted(row.items())) for row in kept.to_pylist(maps_as_pydicts="strict"))


def check_same(second: Lake, first: Lake, tables: Sequence[str] = tuple(TABLES)) -> None:
    of = (("model_id", "models"), ("features", "feature_sets"), ("descriptor", "sources"), ("k", "k_distances"))
    keys = {key: set(rows_of(first, table).column(key).to_pylist()) for key, table in of}
    for table in tables:
        found, expected = rows_of(second, table), rows_of(first, table)
        if found.num_rows and expected.num_rows:
            assert set(found.column_names) == set(expected.column_names), table
            found = found.select(expected.column_names)
        assert told(found, table, keys) == told(expected, table, keys), table


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = {"a": blobs(ROWS, 5), "b": blobs(ROWS, 4, groups=4, seed=5)}
    # Some that fit in nowhere.
    arrays["a"][:4] *= 4
    attributes = [{"path": p, "kind": "xyz"[i % 3]} for i, p in enumerate(image_paths(ROWS))]
    return write_case(tmp_path_factory.mktemp("case") / "case", ROWS, arrays, attributes)


@pytest.fixture(scope="module")
def start(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Context]:
    """A run of a study in a new lake, Parquet, which begins as a copy of another run's, without some tables."""

    def make(study: dict[str, Any], base: Context | None = None, without: Sequence[str] = ()) -> Context:
        folder = tmp_path_factory.mktemp("run") / "lake"
        if base is not None:
            shutil.copytree(str(base.config.lake.path), folder)
        for table in without:
            shutil.rmtree(folder / table)
        return run_of(spark, case, folder, "parquet", **study)

    return make


@pytest.fixture(scope="module")
def fitted(start: Callable[..., Context]) -> Context:
    """The study up to its models, those of the consensus among them."""
    ctx = start(STUDY)
    for stage in (run_ingest, run_features, run_cluster, run_consensus):
        stage(ctx)
    return ctx


@pytest.fixture(scope="module")
def done(start: Callable[..., Context], fitted: Context) -> Context:
    """The study with all that is derived from its models."""
    ctx = start(STUDY, fitted)
    for stage in (run_vehicles, run_outliers, run_project, run_interpret):
        stage(ctx)
    for table in (t for tables in DERIVED.values() for t in tables):
        assert not ctx.lake.read(table).isEmpty(), table
    return ctx


# -- one stage at a time ------------------------------------------------------------------------------

GRIDS = STUDY["cluster"]["models"]
_SOME = ["isolation_forest", "glosh"]
CHANGES: list[tuple[str, Stage, dict[str, Any]]] = [
    # Together only what is not made again together.
    ("dims out", run_project, {"projections__dims": [2]}),
    ("seed of maps", run_project, {"seed": 7, "projections__dims": [2]}),
    ("map in, set out", run_project, {"projections__methods": ["tsne", "pca"], "projections__features": ["b"]}),
    ("no projections", run_project, {"projections": None}),
    ("votes of fewer models", run_vehicles, {"cluster__models": GRIDS[1:], "vehicles__models_per_features": 1}),
    ("no votes", run_vehicles, {"vehicles__models_per_features": 0}),
    ("no agreement", run_consensus, {"consensus": None}),
    ("members", run_interpret, {"report__members": 3}),
    ("fewer models", run_interpret, {"report__models": 2, "cluster__models": GRIDS[1:]}),
    ("no report", run_interpret, {"report": None}),
    ("noise", run_outliers, {"cluster__max_noise_share": 0.05}),
    ("dbscan grid out", run_outliers, {"cluster__models": [*GRIDS[:3], *GRIDS[4:]]}),
    ("hdbscan grid out", run_outliers, {"cluster__models": GRIDS[:-1]}),
    ("method out, set out", run_outliers, {"outliers__methods": _SOME, "outliers__features": ["a"]}),
    ("share", run_outliers, {"outliers__share": 0.2}),
    ("k and seed", run_outliers, {"outliers__methods": ["knn_distance"], "outliers__k": 7, "seed": 7}),
    ("no method", run_outliers, {"outliers__methods": ["glosh"], "outliers__features": ["b"]}),
    ("no outliers", run_outliers, {"outliers": None}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "values"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_stage_with_another_config(
    start: Callable[..., Context],
    done: Context,
    fitted: Context,
    stage: Stage,
    values: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = changed(STUDY, **values)
    second = start(study, done)
    with caplog.at_level(logging.INFO, logger="motorpool"):
        stage(second)
    if None in values.values():
        assert "so what another config asked for goes out of the lake" in caplog.text
    first = start(study, fitted, DERIVED[stage] if stage is run_consensus else ())
    stage(first)
    # Titles are there.
    check_same(second.lake, first.lake, [*DERIVED[stage], *(["clusters"] if stage is run_interpret else [])])


@pytest.mark.slow
def test_leading_outlier_methods_come_and_go(start: Callable[..., Context], done: Context, fitted: Context) -> None:
    study = changed(STUDY, outliers__methods=[*STUDY["outliers"]["methods"], "odd_one_out"])
    second, first = start(study, done), start(study, fitted)
    for ctx in (second, first):
        run_outliers(ctx)
    check_same(second.lake, first.lake, DERIVED[run_outliers])
    agreed = {r["features"]: r for r in second.lake.read("outlier_methods").where("features = 'consensus'").collect()}
    assert set(agreed["consensus"]["params"]) == {"share", "rankings", "leading", "weights"}
    back = start(STUDY, second)
    run_outliers(back)
    check_same(back.lake, done.lake, DERIVED[run_outliers])


@pytest.mark.slow
def test_titles_come_and_go(start: Callable[..., Context], done: Context, fitted: Context, tmp_path: Path) -> None:
    """Those of models that are interpreted, that others are compared with, and that are neither."""
    best = [r["model_id"] for r in done.lake.leaderboard().where("rank_in_features = 1").orderBy("rank").collect()]
    other = done.lake.leaderboard().where("rank_in_features = 2").first()
    assert other is not None
    named = {m: {0: {"title": f"Title {i}"}} for i, m in enumerate([best[0], best[-1], other["model_id"]])}
    (tmp_path / "titles.yaml").write_text(yaml.safe_dump(named))
    study = changed(STUDY, report__titles=str(tmp_path / "titles.yaml"), report__models=2)
    second, first = start(study, done), start(study, fitted)
    for ctx in (second, first):
        run_interpret(ctx)
    check_same(second.lake, first.lake, [*DERIVED[run_interpret], "clusters"])
    assert second.lake.read("clusters").where("title LIKE 'Title%'").count() == 3
    back = start(STUDY, second)
    run_interpret(back)
    check_same(back.lake, done.lake, [*DERIVED[run_interpret], "clusters"])


# -- models -------------------------------------------------------------------------------------------

#: What clustering writes.
FITTED = ("models", "labels", "clusters", "parameters", "k_distances")


@pytest.mark.slow
def test_thresholds_judge_models_that_are_there(start: Callable[..., Context], fitted: Context) -> None:
    strict = {"cluster__min_cluster_share": 0.3, "cluster__max_noise_share": 0.02, "cluster__max_clusters": 4}
    study = changed(STUDY, **strict)
    second, first = start(study, fitted), start(study, fitted, FITTED)
    for ctx in (second, first):
        run_cluster(ctx)
    check_same(second.lake, first.lake)
    judged = [r["reason"] or "" for r in second.lake.read("models").collect()]
    for key in ("min_cluster_share", "max_noise_share", "max_clusters"):
        assert any(f"cluster.{key}" in reason for reason in judged), key
    # A model that had too many clusters was not scored, so it is fitted again.
    back = start(STUDY, second)
    run_cluster(back)
    for table, columns in (
        ("models", ("model_id", "n_clusters", "status", "reason")),
        ("clusters", ("model_id", "size")),
    ):
        found, expected = (sorted(ctx.lake.read(table).select(*columns).collect()) for ctx in (back, fitted))
        assert found == expected, table


@pytest.mark.slow
def test_a_study_of_less(start: Callable[..., Context], done: Context) -> None:
    """Without a feature set that is fitted on vehicles, with fewer grids, and so with other members and yardsticks."""
    grids = [GRIDS[0], GRIDS[2], GRIDS[4]]
    study = changed(STUDY, features=STUDY["features"][:2], cluster__models=grids, consensus__linkage="complete")
    second, first = start(study, done), start(study)
    for ctx in (second, first):
        for stage in (run_ingest, run_features, run_cluster, *DERIVED):
            stage(ctx)
    assert second.lake.read("models").count() > first.lake.read("models").count()
    check_same(second.lake, first.lake)


def test_a_feature_set_of_other_steps_is_refused(start: Callable[..., Context], fitted: Context) -> None:
    for study in (
        changed(STUDY, vehicles__fit_share=0.3),
        changed(STUDY, features=[{"name": "a", "descriptor": "a", "steps": [{"pca": 4}]}, *STUDY["features"][1:]]),
    ):
        with pytest.raises(LakeError, match=r"is in the lake with other steps: .*Give the new one another name"):
            run_features(start(study, fitted))


# -- the case -----------------------------------------------------------------------------------------


@pytest.fixture
def moved(case: Path, tmp_path: Path) -> Path:
    """A copy of the case, to change."""
    return Path(shutil.copytree(case, tmp_path / "moved"))


CASE_TABLES = ("images", "descriptors", "sources", "bad_rows")


@pytest.mark.slow
def test_changed_attributes(start: Callable[..., Context], done: Context, fitted: Context, moved: Path) -> None:
    attributes = [{"path": p, "kind": "xyz"[i % 2], "new": i % 2} for i, p in enumerate(image_paths(ROWS))]
    write_attributes(moved / "attributes.csv", attributes)
    study = STUDY | {"case_options": {"path": str(moved)}}
    second, first = start(study, done), start(study)
    for ctx in (second, first):
        run_ingest(ctx)
    check_same(second.lake, first.lake, ["images", "descriptors", "bad_rows"])
    first = start(study, fitted)
    run_ingest(first)
    for ctx in (second, first):
        run_interpret(ctx)
    check_same(second.lake, first.lake, [*DERIVED[run_interpret], "clusters"])
    before = (Path(str(second.config.lake.path)) / "images" / "data.parquet").stat()
    run_ingest(second)
    assert (Path(str(second.config.lake.path)) / "images" / "data.parquet").stat() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vehicle_pattern": None}, "with other vehicles than case.vehicle_pattern"),
        ({"vehicle_column": "kind"}, "with other vehicles than case.vehicle_pattern"),
        ({"descriptors": {"a": "other.npy"}}, r"holds a from .*a.pickle .*case.descriptors now gives .*other.npy"),
    ],
)
def test_another_case_is_refused(
    start: Callable[..., Context], fitted: Context, moved: Path, options: dict[str, Any], message: str
) -> None:
    np.save(moved / "other.npy", np.zeros((ROWS, 5), np.float32))
    if "descriptors" in options:
        options = {"descriptors": {"a": str(moved / "other.npy")}}
    ctx = start(STUDY | {"case_options": {"path": str(moved)} | options}, fitted)
    with pytest.raises(LakeError, match=message):
        run_ingest(ctx)
    check_same(ctx.lake, fitted.lake, CASE_TABLES)


def test_images_that_are_left_out(start: Callable[..., Context], moved: Path) -> None:
    files = {name: str(moved / "descriptors" / f"{name}.pickle") for name in "ab"}
    for name, rows in (("a", [3, 7]), ("b", [7])):
        array = pickle.loads(Path(files[name]).read_bytes())
        array[rows] = np.nan
        Path(files[name]).write_bytes(pickle.dumps(array))

    def run(on_bad_rows: str, names: str, base: Context | None = None) -> Context:
        options = {"path": str(moved), "on_bad_rows": on_bad_rows, "descriptors": {n: files[n] for n in names}}
        return start(STUDY | {"case_options": options}, base)

    one, both = run("drop", "a"), run("drop", "ab")
    for ctx in (one, both):
        run_ingest(ctx)
    added = run("drop", "ab", one)
    run_ingest(added)
    check_same(added.lake, both.lake, CASE_TABLES)
    with pytest.raises(LakeError, match=r"case\.on_bad_rows is now refuse: set it to drop"):
        run_ingest(run("refuse", "a", one))
    with pytest.raises(LakeError, match=r"images that are bad in a only .* name it again"):
        run_ingest(run("drop", "b", both))


# -- rows that no longer hold -------------------------------------------------------------------------


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
def test_rows_are_forgotten_and_outdated(spark: SparkSession, tmp_path: Path, lake_format: str) -> None:
    ctx = run_of(spark, tmp_path, tmp_path / "lake", lake_format)
    rows = [{"model_id": m, "params": {"photos": "here", "seed": "1"}} for m in ("m1", "m2", "m3")]
    empty = dict.fromkeys(ctx.lake.schema("interpretations", without=["created_at"]).fieldNames())
    ctx.lake.replace_rows("interpretations", [empty | r for r in rows], {"model_id": ["m1", "m2", "m3"]})
    outdate(ctx, "interpretations", {"model_id": {"m1", "m2"}}, keep=["photos"])
    forget(ctx, "interpretations", {"model_id": {"m2"}})
    found = {r["model_id"]: r["params"] for r in ctx.lake.read("interpretations").collect()}
    assert found == {"m1": {"photos": "here"}, "m3": {"photos": "here", "seed": "1"}}
    votes: list[tuple[Any, ...]] = [("m1", "v", 0, 2, 1.0, []), ("m2", "v", 1, 2, 1.0, [])]
    ctx.lake.overwrite("vehicles", spark.createDataFrame(votes, ctx.lake.schema("vehicles")))
    forget(ctx, "vehicles", {"model_id": {"m1"}})
    assert [r["model_id"] for r in ctx.lake.read("vehicles").collect()] == ["m2"]
    forget(ctx, "vehicles", {"model_id": {"m2"}})
    forget(ctx, "interpretations")
    assert ctx.lake.read("vehicles").isEmpty()
    assert ctx.lake.read("interpretations").isEmpty()

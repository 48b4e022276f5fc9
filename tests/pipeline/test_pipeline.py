"""The whole pipeline on a tiny case: tables, views, resuming after a kill at any point, reproducing labels."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession

from cases import blobs, contents, leftovers, run_of, versions, write_case
from motorpool.errors import LakeError
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES, Table
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import STAGES as STAGES_BY_NAME
from motorpool.pipeline.run import run_pipeline
from motorpool.pipeline.stages import cluster
from motorpool.pipeline.stages.features import load_program
from standalone import wait_for

ROWS = 60
ARRAYS = {"osnet": blobs(ROWS, 6, groups=3), "vdc_type": blobs(ROWS, 5, groups=4)}
#: Of 60 images 61 clusters are impossible, and 58 leave some with a single image: below a share of 2 %.
STUDY: dict[str, Any] = {
    "features": [
        {"descriptor": "vdc_type", "steps": [{"pca": 3}, "standard"]},
        {
            "name": "both",
            "join": [{"descriptor": "vdc_type", "steps": ["standard"]}, {"descriptor": "osnet", "steps": [{"pca": 2}]}],
            "steps": ["l2"],
        },
    ],
    "cluster": {
        "models": [
            {"algorithm": "kmeans", "k": [3, 4], "n_init": 2},
            {"algorithm": "kmeans", "k": [58, 61], "features": ["vdc_type-pca3-standard"]},
        ],
        "min_cluster_share": 0.02,
    },
}
FEATURES = ("vdc_type-pca3-standard", "both")
#: The tables that this study fills: it has no density-based models, nothing to compute from photos, and no section for
#: the stages that need one.
STAGES = ("ingest", "features", "cluster", "vehicles")
WRITTEN = [t for t in TABLES.values() if t.written_by in STAGES and t.name not in ("k_distances", "described")]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("pipeline") / "case", ROWS, ARRAYS)


@pytest.fixture(scope="module", params=["delta", "parquet"])
def done(
    request: pytest.FixtureRequest, spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory
) -> Context:
    """A run that nothing disturbed."""
    ctx = run_of(spark, case, tmp_path_factory.mktemp("lake") / "lake", request.param, **STUDY)
    run_pipeline(ctx)
    return ctx


def rows(df: DataFrame, *order: str) -> list[dict[str, Any]]:
    return [r.asDict(recursive=True) for r in df.orderBy(*order).collect()]


class TestTables:
    @pytest.mark.parametrize("table", WRITTEN, ids=lambda t: t.name)
    def test_columns_and_types(self, done: Context, table: Table) -> None:
        found = [(f.name, f.dataType.simpleString()) for f in done.lake.read(table.name).schema]
        assert found == [(f.name, f.dataType.simpleString()) for f in table.schema]

    def test_models(self, done: Context) -> None:
        models = rows(done.lake.read("models"), "features", "algorithm")
        by_key = {(m["features"], int(m["params"]["k"])): m for m in models}
        assert set(by_key) == {(f, k) for f in FEATURES for k in (3, 4)} | {(FEATURES[0], 58), (FEATURES[0], 61)}
        assert {k: m["status"] for k, m in by_key.items() if m["status"] != "ok"} == {
            (FEATURES[0], 58): "degenerate",
            (FEATURES[0], 61): "failed",
        }
        assert "it asks for 61 clusters of 60 images" in by_key[FEATURES[0], 61]["reason"]
        assert re.search(
            r"holds 1 images \(1\.\d+%\), below cluster.min_cluster_share = 2", by_key[FEATURES[0], 58]["reason"]
        )
        for model in models:
            assert model["params"].keys() == {"k", "n_init", "max_iter", "tol", "seed"}
            assert (model["algorithm"], model["backend"]) == ("kmeans", "cpu")
            assert model["created_at"] is not None
            if model["status"] == "ok":
                assert model["reason"] is None
                assert (model["n_clusters"], model["n_noise"]) == (int(model["params"]["k"]), 0)
                assert None not in [model[c] for c in ("calinski_harabasz", "davies_bouldin", "silhouette", "inertia")]
                # Corrected for chance: below 0 where photos of a vehicle meet less often than by chance, as here.
                assert model["vehicle_agreement"] <= 1

    def test_labels_cover_every_fitted_model_and_image(self, done: Context) -> None:
        labels = done.lake.read("labels")
        fitted = [r["model_id"] for r in done.lake.read("models").where("status != 'failed'").collect()]
        assert len(fitted) == 5
        pairs = {(r["model_id"], r["image_id"]) for r in labels.collect()}
        assert pairs == {(m, i) for m in fitted for i in range(ROWS)}
        assert labels.count() == len(pairs)
        assert labels.where("cluster IS NULL OR distance IS NULL OR distance < 0").count() == 0

    def test_the_groups_that_were_made_are_found(self, done: Context) -> None:
        model = done.lake.read("models").where(f"features = '{FEATURES[0]}' AND params['k'] = '4'").first()
        assert model is not None
        labels = rows(done.lake.read("labels", model_id=model["model_id"]), "image_id")
        assert len({(r["image_id"] % 4, r["cluster"]) for r in labels}) == 4

    def test_clusters(self, done: Context) -> None:
        clusters = done.lake.read("clusters")
        counted = done.lake.read("labels").groupBy("model_id", "cluster").count()
        assert rows(clusters.select("model_id", "cluster", "size").where("size > 0"), "model_id", "cluster") == [
            {"model_id": r["model_id"], "cluster": r["cluster"], "size": r["count"]}
            for r in rows(counted, "model_id", "cluster")
        ]
        for row in clusters.collect():
            assert row["share"] == pytest.approx(row["size"] / ROWS)
            if row["size"]:
                assert row["exemplars"]
        members = {(r["model_id"], r["cluster"], r["image_id"]) for r in done.lake.read("labels").collect()}
        shown = {(r["model_id"], r["cluster"], e) for r in clusters.collect() for e in r["exemplars"]}
        assert shown <= members

    def test_feature_sets(self, done: Context) -> None:
        sets = {r["features"]: r for r in done.lake.read("feature_sets").collect()}
        assert set(sets) == set(FEATURES)
        first, both = (sets[name] for name in FEATURES)
        assert (first["descriptors"], first["steps"]) == (["vdc_type"], ["pca: 3", "standard"])
        assert (first["n_features"], both["n_features"]) == (3, 7)
        assert (first["n_images"], both["n_images"]) == (ROWS, ROWS)
        assert 0 < first["explained_variance"] <= 1
        assert both["descriptors"] == ["vdc_type", "osnet"]
        vectors = done.lake.read("features", features="both")
        lengths = [np.linalg.norm(r["vector"]) for r in vectors.collect()]
        np.testing.assert_allclose(lengths, np.ones(ROWS), rtol=1e-5)


class TestViews:
    def test_assignments(self, done: Context) -> None:
        done.lake.register()
        view = done.spark.table("assignments")
        assert view.columns == [
            *("model_id", "features", "algorithm", "n_clusters", "image_id", "path"),
            *("vehicle_id", "cluster", "distance", "strength", "title"),
        ]
        assert view.count() == 5 * ROWS
        row = view.where("image_id = 7").first()
        assert row is not None
        assert (row["path"], row["vehicle_id"]) == ("veriwild/8/00003/000008.jpg", "00003")

    def test_the_leaderboard_leaves_out_what_cannot_be_ranked(self, done: Context) -> None:
        done.lake.register()
        board = rows(done.spark.table("leaderboard"), "rank")
        ok = {r["model_id"] for r in done.lake.read("models").where("status = 'ok'").collect()}
        assert {r["model_id"] for r in board} == ok
        assert [r["rank"] for r in board] == [1, 2, 3, 4]
        for name in FEATURES:
            assert sorted(r["rank_in_features"] for r in board if r["features"] == name) == [1, 2]

    def test_the_leaderboard_by_hand(self, done: Context) -> None:
        """Fractional ranks: of two models the better has 0.25 and the other 0.75, of four 0.125 to 0.875.

        Scores are compared by seven digits.
        """
        digits = np.float32
        done.lake.register()
        board = rows(done.spark.table("leaderboard"), "rank")
        for row in board:
            mates = [r for r in board if r["features"] == row["features"]]

            def share(better: Any, among: list[dict[str, Any]]) -> float:
                return (sum(map(better, among)) + 0.5) / len(among)

            ch = share(lambda r: digits(r["calinski_harabasz"]) > digits(row["calinski_harabasz"]), mates)  # noqa: B023
            db = share(lambda r: digits(r["davies_bouldin"]) < digits(row["davies_bouldin"]), mates)  # noqa: B023
            va = share(lambda r: digits(r["vehicle_agreement"]) > digits(row["vehicle_agreement"]), board)  # noqa: B023
            assert row["score"] == pytest.approx((ch + db + va) / 3, abs=1e-4)
        assert [r["score"] for r in board] == sorted(r["score"] for r in board)


class TestReproducing:
    def test_labels_follow_from_the_lake_alone(self, done: Context) -> None:
        """Stored program on raw descriptors, nearest stored centroid: the stored labels and distances."""
        raw = {}
        for name, array in ARRAYS.items():
            found = rows(done.lake.read("descriptors", descriptor=name), "image_id")
            raw[name] = np.array([r["vector"] for r in found], np.float32)
            np.testing.assert_array_equal(raw[name], array)
        checked = 0
        for name in FEATURES:
            program = load_program(done.lake, name)
            x = program.apply([raw[d] for d in program.descriptors])
            stored = np.array([r["vector"] for r in rows(done.lake.read("features", features=name), "image_id")])
            np.testing.assert_allclose(x, stored, rtol=1e-5, atol=1e-6)
            for model in done.lake.read("models", features=name).where("status != 'failed'").collect():
                centroids = rows(done.lake.read("clusters", model_id=model["model_id"]), "cluster")
                c = np.array([r["centroid"] for r in centroids], np.float64)
                distances = np.sqrt(((x[:, None, :].astype(np.float64) - c) ** 2).sum(axis=2))
                labels = rows(done.lake.read("labels", model_id=model["model_id"]), "image_id")
                assert [r["cluster"] for r in labels] == distances.argmin(axis=1).tolist()
                np.testing.assert_allclose([r["distance"] for r in labels], distances.min(axis=1), rtol=1e-4, atol=1e-5)
                checked += 1
        assert checked == 5

    def test_a_feature_set_that_is_not_there(self, done: Context) -> None:
        with pytest.raises(LakeError, match="feature set 'none' is not in the lake"):
            load_program(done.lake, "none")

    def test_partitions_do_not_change_labels(
        self, spark: SparkSession, case: Path, tmp_path: Path, done: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Splits of 15 rows, and all rows of images passed over and written by tasks: 4 where others have one."""
        partitions = 4
        monkeypatch.setattr("motorpool.lake.FEW_VALUES", 0)
        monkeypatch.setattr("motorpool.lake.FEW_READ", 0)
        monkeypatch.setattr("motorpool.pipeline.stages.features.FEW_VALUES", 0)
        monkeypatch.setattr("motorpool.spark.blocks.HELD_VALUES", 0)
        monkeypatch.setattr("motorpool.spark.tasks.FEW_PRODUCTS", 0)
        monkeypatch.setattr("motorpool.case.descriptors._SPLIT_BYTES", ROWS // partitions * 4 * 6)
        before = spark.conf.get("spark.sql.shuffle.partitions")
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
        spark.conf.set("spark.sql.files.openCostInBytes", str(2**27))
        try:
            ctx = run_of(spark, case, tmp_path / "lake", done.config.lake.format, **STUDY)
            run_pipeline(ctx)
            n_tasks = ctx.lake.read("descriptors", descriptor="osnet").rdd.getNumPartitions()
        finally:
            spark.conf.set("spark.sql.shuffle.partitions", str(before))
            spark.conf.unset("spark.sql.files.openCostInBytes")
        assert n_tasks == partitions
        columns = ("model_id", "image_id", "cluster")
        assert rows(ctx.lake.read("labels").select(*columns), *columns) == rows(
            done.lake.read("labels").select(*columns), *columns
        )


class TestAgain:
    def test_nothing_is_made_twice(self, done: Context) -> None:
        before = contents(done.lake)
        at = versions(done.lake) if done.config.lake.format == "delta" else {}
        run_pipeline(done)
        assert contents(done.lake) == before
        assert at == (versions(done.lake) if at else {})

    def test_more_models_leave_the_old_ones_alone(
        self, done: Context, spark: SparkSession, case: Path, tmp_path: Path
    ) -> None:
        if done.config.lake.format == "delta":
            pytest.skip("the same for both formats")
        ctx = run_of(spark, case, tmp_path / "lake", done.config.lake.format, **STUDY)
        # Only the second grid's models of one set, then all.
        grids = STUDY["cluster"] | {"models": STUDY["cluster"]["models"][1:]}
        run_pipeline(run_of(spark, case, tmp_path / "lake", done.config.lake.format, **(STUDY | {"cluster": grids})))
        before = contents(ctx.lake)
        run_pipeline(ctx)
        after = contents(ctx.lake)
        for table in ("images", "descriptors", "sources", "features", "feature_sets"):
            assert before[table] == after[table]
        for table in ("models", "labels", "clusters", "parameters"):
            assert set(before[table]) < set(after[table])
        assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)

    def test_what_was_fitted_before_an_error_is_written(
        self, spark: SparkSession, case: Path, tmp_path: Path, done: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ctx = run_of(spark, case, tmp_path / "lake", done.config.lake.format, **STUDY)
        for stage in ("ingest", "features"):
            STAGES_BY_NAME[stage](ctx)
        score = cluster.score_models
        calls: list[int] = []

        def fails_later(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise LakeError("the third grid cannot be scored")
            return score(*args)

        monkeypatch.setattr(cluster, "score_models", fails_later)
        with pytest.raises(LakeError, match="the third grid"):
            cluster.run_cluster(ctx)
        written = {r["model_id"] for r in ctx.lake.rows("models", ["model_id"])}
        assert len(written) == 4
        assert {r["model_id"] for r in ctx.lake.read("labels").select("model_id").distinct().collect()} <= written
        run_pipeline(ctx)
        assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)

    def test_changed_steps_under_the_same_name_are_refused(
        self, done: Context, spark: SparkSession, case: Path
    ) -> None:
        changed = {"name": "both", "descriptor": "osnet", "steps": ["l2"]}
        study = STUDY | {"features": [STUDY["features"][0], changed]}
        before = contents(done.lake)
        ctx = run_of(spark, case, Path(str(done.config.lake.path)), done.config.lake.format, **study)
        with pytest.raises(LakeError, match=r"feature set 'both' is in the lake with other steps.*another name"):
            run_pipeline(ctx)
        assert contents(done.lake) == before


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


class TestStopped:
    @pytest.mark.slow
    def test_between_any_two_writes(
        self, done: Context, spark: SparkSession, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every write in turn is the last before a stop; in the end all is as in one go."""
        if done.config.lake.format == "delta":
            pytest.skip("the same for both formats")
        ctx = run_of(spark, case, tmp_path / "lake", done.config.lake.format, **STUDY)
        write, stops = Lake._write, []
        written: list[str] = []
        allowed = 1

        def stopped(lake: Lake, *args: Any) -> None:
            if len(written) == allowed:
                raise _StoppedError
            write(lake, *args)
            written.append(args[0].name)

        monkeypatch.setattr(Lake, "_write", stopped)
        while len(stops) < 40:
            written.clear()
            try:
                run_pipeline(ctx)
                break
            except _StoppedError:
                stops.append(written[-1])
            # These tables' rows say that work is done; the next attempt goes on from there, one write at a time.
            marked = {"sources", "feature_sets", "models"} & set(written)
            allowed = 1 if marked else allowed + 1
        # Both feature sets are written together, as are all models.
        assert stops[:6] == ["descriptors", "images", "bad_rows", "sources", "features", "feature_sets"]
        assert stops.count("models") == 1
        # No write comes after the last one.
        assert {*stops, written[-1]} == {t.name for t in WRITTEN}
        assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)


def living(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.slow
class TestKilled:
    """`motorpool run` in its own process group, killed when its log tells of a step, and started again."""

    #: A line with which a step of each stage begins, in the log of `--debug`: while descriptors, features, labels are
    #: being written.
    LINES: ClassVar = {
        "delta": ("ingest: converting", "features: writing both", "cluster: scoring"),
        # Stopped between any two writes above.
        "parquet": ("cluster: scoring",),
    }
    #: What is said without it before these stages begin.
    BEFORE: ClassVar = {"delta": ("starting Spark: ", "stage 1 of ", "stage 2 of "), "parquet": ("stage 2 of ",)}

    @pytest.fixture
    def command(self, done: Context, case: Path, tmp_path: Path) -> list[str]:
        # As in the tests' own session, so that the same rows meet in the same partitions.
        same = {"sql.shuffle.partitions": "3", "sql.autoBroadcastJoinThreshold": "-1"}
        spark = {"master": "local[2]", "driver.memory": "1g", **same}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(STUDY | {"spark": spark}))
        override = [f"case.path={case}", f"lake.path={tmp_path / 'lake'}", f"lake.format={done.config.lake.format}"]
        start = [sys.executable, "-m", "motorpool.cli", "run", "--conf", str(tmp_path / "run.yaml")]
        return [*start, *(part for o in override for part in ("--set", o))]

    def run(self, command: list[str], kill_at: str | None, by: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
        """Exit status and stderr; the whole process group is sent a signal once a line of stderr holds ``kill_at``."""
        # Rich wraps lines at the width of the terminal it believes in.
        env = os.environ | {"COLUMNS": "500"}
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        assert process.stderr is not None
        text = ""
        for line in process.stderr:
            text += line
            if kill_at and kill_at in line:
                # Some way into the work that the line announces.
                threading.Event().wait(0.7)
                os.killpg(process.pid, by)
                break
        text += process.stderr.read()
        status = process.wait(timeout=60)
        wait_for("the end of all processes", lambda: not living(process.pid), 10)
        return status, text

    def test_ctrl_c_says_one_sentence_and_leaves_nothing(self, done: Context, command: list[str]) -> None:
        """As a terminal sends it: to the command, the JVM and Spark's Python workers."""
        for line in self.BEFORE[done.config.lake.format]:
            status, text = self.run(command, line, signal.SIGINT)
            assert status == 130, text
            assert text.splitlines()[-1] == "Stopped. The same command goes on from here."
            assert "Traceback" not in text
            assert "Py4J" not in text

    def test_the_next_run_ends_as_an_undisturbed_one(self, done: Context, command: list[str], tmp_path: Path) -> None:
        debugged = [*command[:3], "--debug", *command[3:]]
        for line in self.LINES[done.config.lake.format]:
            status, text = self.run(debugged, line)
            assert status == -signal.SIGKILL, text
        status, text = self.run(command, None)
        assert status == 0, text
        lake = Lake(done.spark, done.config.lake.model_copy(update={"path": str(tmp_path / "lake")}))
        assert contents(lake, clock=False) == contents(done.lake, clock=False)
        assert leftovers(tmp_path / "lake") == []

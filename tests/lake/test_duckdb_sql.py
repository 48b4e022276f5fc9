"""DuckDB's answers are Spark's, or it gives none: the same queries to both, and what is refused."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from cases import assert_same
from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError, LakeError
from motorpool.lake import Lake
from motorpool.lake.local_tables import LocalTables
from motorpool.lake.reading import LakeReader, ask_spark
from motorpool.lake.schemas import TABLES, VIEW_COMMENTS
from motorpool.lake.sql import NotUnderstoodError, session
from motorpool.lake.sql.session import DuckLake
from motorpool.pipeline.context import Context


def row_of(table: str, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(TABLES[table].schema.fieldNames()) | values


def fill(lake: Lake) -> None:
    """Small tables with what makes engines differ: nulls, NaN, ties of rounding, floats, empty arrays."""
    doubles = [0.285, -0.285, 2.5, 1e-5, 12345678.9, 1e20, 0.001, 1.0, -0.0, float("nan"), float("inf"), None]
    lake.overwrite_rows(
        "clusters",
        [
            row_of(
                "clusters", model_id="a" if i % 2 else "b", cluster=i, size=i - 3, share=x, centroid=[0.1, 0.95, 3e7],
                exemplars=[[], [3, 1, 2], None][i % 3], title=["White", None, "More than usual", "white"][i % 4],
            )
            for i, x in enumerate(doubles)
        ],
    )  # fmt: skip
    at = dt.datetime(2026, 3, 29, 1, 30, tzinfo=dt.UTC)
    lake.overwrite_rows(
        "outlier_methods",
        [
            row_of("outlier_methods", features="x", method="lof", params={"k": "50", "share": "0.02"}, created_at=at),
            row_of("outlier_methods", features="x", method="é|'\"", params={}, n_outliers=3, created_at=at),
        ],
    )
    lake.overwrite_rows("models", [row_of("models", model_id="a", params={}, created_at=at)])
    labels = [
        row_of("labels", model_id=m, image_id=i, cluster=i % 3 - 1, distance=d, strength=0.95)
        for m in ("a", "b")
        for i, d in enumerate([0.1, 0.95, 2.5, None, 7.125])
    ]
    lake.replace_rows("labels", labels, {"model_id": ["a", "b"]})


@pytest.fixture(scope="module", params=["delta", "parquet"])
def filled(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(spark, LakeConfig(path=str(tmp_path_factory.mktemp("lake") / "lake"), format=request.param))
    fill(lake)
    return lake


#: Each differs between the two as it stands.
TRICKY = (
    "SELECT cluster, round(share, 2) AS r, round(share) AS whole, round(centroid[1], 1) AS f "
    "FROM clusters ORDER BY cluster",
    "SELECT cluster, CAST(share AS STRING) AS t, concat('s', cluster, ' ', share) AS u FROM clusters ORDER BY cluster",
    "SELECT cluster, int(share > 0.1) AS n, CAST(title IS NULL AS BIGINT) AS u, int('12') AS v FROM clusters "
    "ORDER BY cluster",
    "SELECT avg(int(share > 0.1)) AS n, sum(int(cluster = 1)) AS u FROM clusters",
    "SELECT cluster, CAST(share AS INT) AS n FROM clusters WHERE abs(share) < 1000 ORDER BY cluster",
    "SELECT cluster FROM clusters ORDER BY share, cluster",
    "SELECT cluster FROM clusters ORDER BY share DESC, cluster",
    "SELECT cluster, row_number() OVER (PARTITION BY model_id ORDER BY title, cluster) AS n FROM clusters ORDER BY 1",
    "SELECT cluster FROM clusters WHERE centroid[1] >= 0.95 ORDER BY cluster",
    "SELECT image_id FROM labels WHERE distance BETWEEN 0.1 AND 0.95 OR distance IN (2.5) ORDER BY model_id, image_id",
    "SELECT cluster, size / 3 AS d, 100 * size AS m, size % 5 AS p FROM clusters ORDER BY cluster",
    "SELECT image_id, distance / strength AS d FROM labels ORDER BY model_id, image_id",
    "SELECT concat(title, '!') AS t, concat_ws('-', model_id, title, cluster) AS w FROM clusters ORDER BY cluster",
    "SELECT title FROM clusters WHERE title LIKE '%hite' ORDER BY cluster",
    "SELECT model_id, collect_list(title) AS l, array_sort(collect_set(title)) AS s "
    "FROM clusters GROUP BY model_id ORDER BY 1",
    "SELECT collect_list(title) AS l, sum(size) AS s, count_if(size > 2) AS c FROM clusters WHERE cluster > 99",
    "SELECT cluster, explode(exemplars) AS e FROM clusters ORDER BY cluster, e",
    "SELECT cluster, posexplode(exemplars) AS (place, e), title FROM clusters ORDER BY cluster, place",
    "SELECT cluster, size(exemplars) AS n, array_sort(exemplars) AS s, transform(exemplars, e -> e + 1) AS t "
    "FROM clusters ORDER BY cluster",
    "SELECT model_id, max_by(title, cluster) AS a, min_by(cluster, struct(-size, cluster)) AS b FROM clusters "
    "GROUP BY model_id ORDER BY model_id",
    "SELECT model_id, percentile(distance, 0.5) AS p, median(distance) AS m, avg(distance) AS a, sum(distance) AS s "
    "FROM labels GROUP BY ALL ORDER BY 1",
    "SELECT method, params['k'] AS k, params['none'] AS none, to_json(params) AS p, params "
    "FROM outlier_methods ORDER BY 1",
    "SELECT method, created_at FROM outlier_methods WHERE created_at > '2026-03-29 01:00:00' ORDER BY method",
    "SELECT cluster AS size, size AS cluster FROM clusters ORDER BY -size",
    "SELECT coalesce(title, 'none') AS t, nullif(size, 0) AS n, IF(size > 2, 'large', NULL) AS l "
    "FROM clusters ORDER BY cluster",
    "SELECT count(*), sum(size), max(title) FROM clusters",
    "SELECT c.cluster FROM clusters AS c LEFT ANTI JOIN labels AS l ON l.cluster = c.cluster ORDER BY 1",
    "SELECT model_id, count(DISTINCT title) AS n FROM clusters GROUP BY model_id HAVING count(*) > 1 ORDER BY 1",
    "WITH x AS (SELECT cluster FROM clusters) SELECT cluster FROM x WHERE cluster IN (SELECT cluster "
    "FROM labels) ORDER BY 1",
    "SELECT split(model_id || '/b', '/')[1] AS s, substring(title, 2, 3) AS u, length(title) AS n "
    "FROM clusters ORDER BY cluster",
    "SELECT CAST(title AS DOUBLE) AS d FROM clusters WHERE title IS NULL",
    "SELECT cluster, rank() OVER (ORDER BY share) AS r, sum(size) OVER (PARTITION BY model_id) AS s "
    "FROM clusters ORDER BY 1",
    "SELECT floor(share) AS f, ceil(share) AS c FROM clusters WHERE abs(share) < 1e6 ORDER BY cluster",
    "SELECT model_id FROM clusters UNION SELECT model_id FROM labels ORDER BY 1",
    "SELECT share = share AS e, share > 1e300 AS g FROM clusters ORDER BY cluster",
    "SELECT * FROM outlier_methods ORDER BY method",
    "SELECT size + size + size + size + size + size + size AS s FROM clusters ORDER BY s",
    "SELECT size % 2 AS size, count(*) AS n FROM clusters GROUP BY size ORDER BY size, n",
    "SELECT min_by(cluster, struct(title, -cluster)) AS a, max_by(cluster, struct(title, cluster)) AS b FROM clusters",
    "SELECT CLUSTER, lower(title) AS l, upper(title) AS u FROM clusters ORDER BY Cluster",
    "WITH x AS (SELECT size FROM clusters) SELECT size AS n FROM x UNION ALL SELECT count(*) FROM x ORDER BY n",
    "SELECT struct(cluster, title) AS s FROM clusters ORDER BY cluster",
)  # fmt: skip
#: What DuckDB would answer otherwise, or reads outside of the lake, with a word of the reason.
REFUSED = {
    "SELECT read_text('/etc/passwd') AS t": "read_text",
    "SELECT * FROM read_csv('/etc/passwd')": "READ_CSV",
    "SELECT * FROM parquet.`/tmp/x`": "another catalog",
    "SELECT * FROM delta.`/etc/clusters`": "outside of the lake",
    "SELECT getenv('HOME') AS h": "getenv",
    "DROP TABLE clusters": "DROP",
    "INSERT INTO clusters SELECT * FROM clusters": "INSERT",
    "COPY clusters TO '/tmp/x'": "",
    "ATTACH '/tmp/x.db' AS x": "",
    "SET x = 1": "SET",
    "SELECT 1; SELECT 2": "2 statements",
    "SELECT '\\\\d' AS d": "backslash",
    "SELECT rand() AS r": "Rand",
    "SELECT first(title) AS t FROM clusters": "First",
    "SELECT 0.5 * size AS x FROM clusters": "decimal",
    "SELECT coalesce(share, 0.0) AS x FROM clusters": "0.0D",
    "SELECT 100 * distance AS x FROM labels": "FLOAT",
    "SELECT round(size, 1) AS x FROM clusters": "BIGINT",
    "SELECT coalesce(size, title) AS x FROM clusters": "mix",
    "SELECT title RLIKE 'W.*' AS x FROM clusters": "RegexpLike",
    "SELECT split(title, '.')[0] AS x FROM clusters": "regular expression",
    "SELECT try_cast(title AS INT) AS x FROM clusters": "try_cast",
    "SELECT to_json(centroid) AS x FROM clusters": "to_json",
    "SELECT * FROM clusters AS a INNER JOIN clusters AS b ON a.cluster = b.cluster": "one name",
    "SELECT * FROM clusters TABLESAMPLE (10 ROWS)": "",
    "SELECT title COLLATE unicode AS x FROM clusters": "",
    "SELECT current_date() AS d": "CurrentDate",
    f"SELECT {'IF(size > 1, ' * 20}1{', 2)' * 20} AS x FROM clusters": "nested this deep",
    "SELECT size AS x FROM clusters UNION SELECT title FROM clusters": "UNION of columns of different types",
    "SELECT centroid[0] AS x FROM clusters UNION ALL SELECT cluster FROM clusters": "UNION of columns",
    "SELECT max(struct(title, cluster)) AS m FROM clusters": "struct() that is compared",
    "SELECT upper(method) AS u FROM outlier_methods": "beyond ASCII",
    "SELECT cluster AS size, count(*) AS n FROM clusters GROUP BY cluster HAVING size > 1": "HAVING",
    "SELECT sum(size) FILTER (WHERE cluster > 1) OVER () AS x FROM clusters LATERAL VIEW explode(exemplars) t AS e": "",
}


@pytest.mark.parametrize("query", TRICKY)
def test_the_answer_is_that_of_spark(filled: Lake, query: str) -> None:
    with DuckLake(LocalTables(filled.config)) as duck:
        assert_same(duck.ask(query), ask_spark(filled, query))


@pytest.mark.parametrize("query", REFUSED)
def test_what_may_differ_is_refused(filled: Lake, query: str) -> None:
    with DuckLake(LocalTables(filled.config)) as duck, pytest.raises(NotUnderstoodError) as told:
        list(duck.ask(query).rows())
    assert REFUSED[query].lower() in str(told.value).lower()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT size / (size - size) AS x FROM clusters",
        "SELECT size % 0 AS x FROM clusters",
        "SELECT exemplars[7] AS x FROM clusters",
        "SELECT CAST(title AS INT) AS x FROM clusters",
        "SELECT (SELECT cluster FROM clusters) AS x",
    ],
)
def test_both_end_with_an_error(filled: Lake, query: str) -> None:
    with DuckLake(LocalTables(filled.config)) as duck, pytest.raises(ConfigError):
        list(duck.ask(query).rows())
    with pytest.raises(ConfigError):
        list(ask_spark(filled, query).rows())


def test_every_view_and_table(sample_run: Context) -> None:
    with DuckLake(LocalTables(sample_run.config.lake)) as duck:
        assert duck.names() == sample_run.lake.register()
        wide = ("descriptors", "features")
        for name in [n for n in duck.names() if n not in wide]:
            query = f"SELECT * FROM {name}"
            rows = assert_same(duck.ask(query), ask_spark(sample_run.lake, query), ordered=False)
            assert rows or name == "bad_rows"


def test_describe_tells_types_and_comments(sample_run: Context) -> None:
    sample_run.lake.register()
    with DuckLake(LocalTables(sample_run.config.lake)) as duck:
        for name in ("models", "assignments", "leaderboard", "labelled_images"):
            found = {row[0]: row[1:] for row in duck.ask(f"DESCRIBE {name}").rows()}
            wanted = {row[0]: tuple(row[1:]) for row in sample_run.spark.sql(f"DESCRIBE {name}").collect()}
            assert found == wanted
            assert all(comment for _, comment in found.values())
        assert found["path"][1] == VIEW_COMMENTS["labelled_images"]["path"]
        assert [row[1] for row in duck.ask("SHOW TABLES").rows()] == sorted(duck.names())


def test_values_are_no_sql(filled: Lake) -> None:
    query, value = "SELECT method FROM outlier_methods WHERE method = :m AND n_outliers = :n", "é|'\""
    with DuckLake(LocalTables(filled.config)) as duck:
        assert list(duck.ask(query, {"m": value, "n": 3}).rows()) == [(value,)]
        assert list(duck.ask(query, {"m": "x' OR '1' = '1", "n": 3}).rows()) == []
        with pytest.raises(NotUnderstoodError, match="no value for :n"):
            duck.ask(query, {"m": value})


def test_versions_of_a_delta_table(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="delta"))
    fill(lake)
    lake.overwrite_rows("clusters", [row_of("clusters", model_id="c", cluster=1)])
    at = f"delta.`{lake.root}/clusters`"
    with DuckLake(LocalTables(lake.config)) as duck:
        for query in (
            f"SELECT count(*) AS n FROM {at} VERSION AS OF 0",
            f"SELECT n.cluster FROM {at} AS n LEFT ANTI JOIN {at} VERSION AS OF 0 AS old ON old.model_id = n.model_id",
        ):
            assert len(assert_same(duck.ask(query), ask_spark(lake, query))) == 1
        with pytest.raises(NotUnderstoodError, match="version 99 of clusters"):
            duck.ask(f"SELECT * FROM {at} VERSION AS OF 99")


def test_a_table_of_an_earlier_version_has_nulls(spark: SparkSession, tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    write_deltalake(tmp_path / "lake" / "outlier_methods", pa.table({"method": ["lof"], "features": ["x"]}))
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="delta"))
    with DuckLake(LocalTables(lake.config)) as duck:
        assert_same(duck.ask("SELECT * FROM outlier_methods"), ask_spark(lake, "SELECT * FROM outlier_methods"))


def test_an_error_behind_the_first_rows(filled: Lake) -> None:
    """As those of the first: it is the query's, and no other question fails for it."""
    query = (
        "SELECT c.cluster / (a.cluster * 144 + b.cluster * 12 + c.cluster - 1700) AS x "
        "FROM clusters AS a CROSS JOIN clusters AS b CROSS JOIN clusters AS c CROSS JOIN clusters AS d"
    )
    with DuckLake(LocalTables(filled.config)) as duck:
        with pytest.raises(ConfigError, match="division by zero"):
            list(duck.ask(query).rows())
        half_read = duck.ask("SELECT cluster FROM clusters ORDER BY cluster")
        assert next(half_read.rows()) == (0,)
        assert list(duck.ask("SELECT count(*) AS n FROM clusters").rows()) == [(12,)]


class TestMistakes:
    def test_an_unknown_table(self, filled: Lake) -> None:
        with DuckLake(LocalTables(filled.config)) as duck:
            with pytest.raises(ConfigError, match=r"no table or view 'nothing'\nThe lake has: .*clusters"):
                duck.ask("SELECT * FROM nothing")
            with pytest.raises(ConfigError, match="colour"):
                duck.ask("SELECT colour FROM clusters")


class TestBounds:
    def test_nothing_outside_is_read_or_written(self, filled: Lake, tmp_path: Path) -> None:
        """Even by DuckDB's own SQL, which no query of people's becomes."""
        (tmp_path / "secret.csv").write_text("a\n1\n")
        with DuckLake(LocalTables(filled.config)) as duck:
            frame = [1]
            for statement in (
                f"SELECT * FROM '{tmp_path}/secret.csv'",
                f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
                f"ATTACH '{tmp_path}/x.db'",
                "SET enable_external_access = true",
                "SET memory_limit = '100GB'",
                "SELECT * FROM frame",
            ):
                with pytest.raises(session.duckdb.Error):
                    duck._connection.execute(statement)
            assert frame == [1]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.csv"]

    def test_what_does_not_fit_goes_to_disk(self, filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "MEMORY", "64MB")
        query = "SELECT hash(i) AS h, repeat('x', 40) AS s FROM range(3000000) AS r(i) ORDER BY h"
        with DuckLake(LocalTables(filled.config)) as duck:
            scratch = Path(duck._scratch.name)
            reader = duck._connection.sql(query).to_arrow_reader(1000)
            assert sum(1 for _ in scratch.rglob("*")) > 0
            reader.read_next_batch()
            reader.close()
        assert not scratch.exists()

    def test_no_jvm_starts(self, filled: Lake) -> None:
        program = (
            "import sys\nfrom motorpool.cli import main\n"
            "status = main(['sql', '--lake', sys.argv[1], 'SELECT count(*) AS n FROM clusters', '--output', 'csv'])\n"
            "from pyspark import SparkContext\n"
            "assert SparkContext._gateway is None\n"
            "assert 'numba' not in sys.modules and 'scipy' not in sys.modules\n"
            "sys.exit(status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(filled.config.path)], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (0, "n\n12\n"), done.stderr


class TestEngines:
    QUERY = "SELECT count(*) AS n FROM clusters"

    def test_auto_says_why_spark_answers(self, filled: Lake) -> None:
        said: list[str] = []
        started: list[Lake] = []

        def start() -> Lake:
            started.append(filled)
            return filled

        with LakeReader(filled.config, start, "auto", said.append) as lake:
            assert list(lake.sql(self.QUERY).rows()) == [(12,)]
            assert (said, started) == ([], [])
            assert list(lake.sql("SELECT first(title) AS t FROM clusters WHERE cluster = 0").rows()) == [("White",)]
            assert started == [filled]
            (line,) = said
            assert line.startswith("Spark answers")
            assert "First()" in line
            assert "\n" not in line

    def test_duckdb_alone_refuses(self, filled: Lake) -> None:
        with LakeReader(filled.config, lambda: filled, "duckdb") as lake:
            assert list(lake.sql(self.QUERY).rows()) == [(12,)]
            with pytest.raises(ConfigError, match=r"--engine duckdb: .*Rand.*use --engine spark"):
                lake.sql("SELECT rand() AS r")

    def test_spark_alone(self, filled: Lake) -> None:
        with LakeReader(filled.config, lambda: filled, "spark") as lake:
            assert lake.sql(self.QUERY).table().to_pylist() == [{"n": 12}]

    def test_a_catalog_is_spark_s(self, filled: Lake) -> None:
        config = LakeConfig(schema="nowhere")
        with pytest.raises(ConfigError, match="--engine duckdb: the lake is in no folder of this machine"):
            LakeReader(config, lambda: filled, "duckdb")
        said: list[str] = []
        with LakeReader(config, lambda: filled, "auto", said.append) as lake:
            assert list(lake.sql(self.QUERY).rows()) == [(12,)]
        assert said == ["Spark answers, which takes longer to start: the lake is in no folder of this machine"]


class TestParquetSwaps:
    def test_a_stopped_write_is_undone_first(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
        fill(lake)
        table = tmp_path / "lake" / "labels"
        draft = tmp_path / "lake" / "_labels-0abc"
        (draft / "old").mkdir(parents=True)
        (draft / "rows").mkdir()
        (draft / "swap.json").write_text('{"out": ["model_id=a"], "into": []}')
        (table / "model_id=a").rename(draft / "old" / "model_id=a")
        with DuckLake(LocalTables(lake.config)) as duck:
            assert list(duck.ask("SELECT model_id, count(*) AS n FROM labels GROUP BY 1 ORDER BY 1").rows()) == [
                ("a", 5), ("b", 5),
            ]  # fmt: skip

    def test_files_that_go_while_they_are_read(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))
        fill(lake)
        with DuckLake(LocalTables(lake.config)) as duck:
            duck._make("labels")
            for file in (tmp_path / "lake" / "labels").rglob("*.parquet"):
                file.unlink()
            with pytest.raises(LakeError, match="a run writes to it; ask again"):
                list(duck.ask("SELECT * FROM labels").rows())


def test_ctrl_c_ends_a_long_query(filled: Lake) -> None:
    """DuckDB leaves it and answers the next one."""
    many = ", ".join(f"clusters AS c{i}" for i in range(14))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    press = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with DuckLake(LocalTables(filled.config)) as duck:
            press.start()
            with pytest.raises(KeyboardInterrupt):
                duck.ask(f"SELECT count(*) AS n FROM {many} WHERE c0.share + c13.share > 0.1")
            assert list(duck.ask("SELECT 1 AS one").rows()) == [(1,)]
    finally:
        press.cancel()
        signal.signal(signal.SIGINT, before)

"""The SQL cookbook: every query of docs/sql.md runs, and answers with the columns that the page shows."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
from pyspark.sql import DataFrame

import motorpool
from cases import assert_same
from motorpool.config.run import LakeConfig
from motorpool.lake import Lake
from motorpool.lake.local_tables import LocalTables
from motorpool.lake.reading import ask_spark
from motorpool.lake.sql import NotUnderstoodError
from motorpool.lake.sql.session import DuckLake
from motorpool.pipeline.context import Context

ROOT = Path(__file__).resolve().parents[2]


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"notebooks_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load(ROOT / "notebooks" / "build.py")
PAGE = build.DOCS.read_text()
RECIPES = build.read_cookbook(PAGE)


def test_the_page_is_read_whole() -> None:
    assert len(RECIPES) == PAGE.count("```sql\n") >= 15
    assert len({r.title for r in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        assert recipe.query.split()[0] in ("SELECT", "WITH", "DESCRIBE")
        assert recipe.header, f"{recipe.title}: shows no answer"
        assert recipe.reading.endswith((".", ").")), f"{recipe.title}: does not say how to read it"


@pytest.fixture(scope="module")
def ask(sample_run: Context) -> Callable[[str], DataFrame]:
    """The answer to a recipe, by its title."""
    sample_run.lake.register()
    queries = {r.title: r.on(sample_run.config.lake.path) for r in RECIPES}
    return lambda title: sample_run.spark.sql(queries[title])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.title)
def test_a_query_answers_with_the_columns_shown(ask: Callable[[str], DataFrame], recipe: Any) -> None:
    frame = ask(recipe.title)
    assert not frame.isEmpty()
    # The page leaves out columns that hold nothing.
    shown = list(recipe.header)
    assert [c for c in frame.columns if c in shown] == shown


#: What only Spark answers: the log of a Delta table.
SPARK_ALONE = {"What has been written to a table?"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.title)
def test_both_engines_answer_alike(sample_run: Context, recipe: Any) -> None:
    query = recipe.on(sample_run.config.lake.path)
    with DuckLake(LocalTables(sample_run.config.lake)) as duck:
        if recipe.title in SPARK_ALONE:
            with pytest.raises(NotUnderstoodError):
                duck.ask(query)
        else:
            assert_same(duck.ask(query), ask_spark(sample_run.lake, query))


def test_answers_agree_with_the_tables(sample_run: Context, ask: Callable[[str], DataFrame]) -> None:
    """Answers computed once more without SQL."""
    lake = sample_run.lake
    models = lake.read("models").toPandas()
    best = ask("Which model is best, for each feature set?").toPandas().iloc[0]["model_id"]

    labels = lake.read("labels", model_id=best).toPandas().merge(lake.read("images").toPandas(), on="image_id")
    photos = labels.groupby("vehicle_id").cluster.agg(["size", "nunique"])
    split = photos[photos["size"] > 1].groupby("nunique").size().to_dict()
    found = ask("How many vehicles are split over several clusters?").toPandas()
    assert dict(zip(found.clusters, found.vehicles, strict=True)) == split

    found = ask("Which clusters hold the night frames?").toPandas().set_index("cluster")
    assert found.night.to_dict() == labels.groupby("cluster").outlier.apply(lambda c: (c == "night").sum()).to_dict()
    assert found.photos.sum() == len(labels) == 240

    kmeans = models[(models.algorithm == "kmeans") & (models.status == "ok")]
    by_db = kmeans.loc[kmeans.groupby("features").davies_bouldin.idxmin()].set_index("features").n_clusters.to_dict()
    found = ask("How many clusters does each criterion ask for?").toPandas().set_index("features")
    assert found.by_davies_bouldin.to_dict() == by_db

    sets = lake.read("feature_sets").toPandas().set_index("features")
    found = ask("How many components are enough?").toPandas().set_index("features")
    for name, curve in sets.explained_variance_curve.items():
        total = np.cumsum(curve)
        assert found.loc[name, "for_half"] == np.argmax(total >= 0.5) + 1
        assert found.loc[name, "for_90_percent"] == np.argmax(total >= 0.9) + 1
        assert found.loc[name, "kept"] == pytest.approx(total[found.loc[name, "n_features"] - 1], abs=0.001)

    spread = ask("How are the clusters spread over the folders?").toPandas()
    folder = labels.path.str.split("/").str[1].astype(int)
    for row in spread.itertuples():
        here = (folder == row.folder) & (labels.cluster == row.cluster)
        assert row.photos == here.sum()
        expected = (here.sum() / (folder == row.folder).sum()) / (labels.cluster == row.cluster).mean()
        assert row.lift == pytest.approx(expected, abs=0.006)


class TestPage:
    PAGE = (
        "# Page\n\n## One\n\nAbout these.\n\n### First?\n\n```sql\nSELECT 1 AS a, NULL AS b, 'x|y' AS c\n```\n\n"
        "| old |\n| --- |\n| 0 |\n\nRead it.\n\n"
        "### Second?\n\n```sql\nSELECT id FROM range(2)\n```\n\nIn two\nlines.\n\n"
        "## Other\n\nNo query.\n"
    )

    def test_recipes(self) -> None:
        first, second = build.read_cookbook(self.PAGE)
        assert (first.chapter, first.opening, first.title, first.header) == ("One", "About these.", "First?", ("old",))
        assert (second.chapter, second.query, second.header) == ("", "SELECT id FROM range(2)", ())
        assert second.reading == "In two\nlines."

    def test_answers_replace_those_before(self, sample_run: Context) -> None:
        with motorpool.open_lake(sample_run.config.lake.path) as lake:
            page = build.with_answers(self.PAGE, lake)
            assert "| a | c |\n| ---: | --- |\n| 1 | x\\|y |\n\nRead it.\n" in page
            assert "| id |\n| ---: |\n| 0 |\n| 1 |\n\nIn two\nlines.\n\n## Other\n\nNo query.\n" in page
            assert "old" not in page
            assert build.with_answers(page, lake) == page

    def test_the_notebook_asks_a_lake_in_a_catalog_too(
        self, sample_run: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There tables have no path to be asked for by."""
        lake = Lake(sample_run.spark, LakeConfig(schema="cookbook_tests"))
        sources = [c.source for c in build.cookbook_notebook(RECIPES, {}).cells if c.cell_type == "code"]
        versions = [s for s in sources if "STORED" in s][1:]
        assert len(versions) == sum(build.PLACE in r.query for r in RECIPES) > 0
        monkeypatch.setenv("MOTORPOOL_LAKE", "cookbook_tests")
        names: dict[str, Any] = {}
        try:
            for table in ("images", "models", "outliers"):
                lake.overwrite(table, sample_run.lake.read(table))
            exec(sources[0], names)
            for source in versions:
                assert not eval(source, names).empty
        finally:
            sample_run.spark.sql("USE default")
            sample_run.spark.sql("DROP SCHEMA IF EXISTS cookbook_tests CASCADE")
            sample_run.lake.register()

    def test_the_notebook_asks_what_the_page_asks(self) -> None:
        stored = nbformat.read(build.COOKBOOK, as_version=4)
        made = build.cookbook_notebook(RECIPES, {})
        assert [c.source for c in stored.cells] == [c.source for c in made.cells]

"""The neighbours of a lake in other libraries, by the examples of docs/duplicates.md; skipped without them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.neighbors import NearestNeighbors

from cases import run_of, uneven_blobs, write_case, write_paths
from motorpool.pipeline.run import STAGES

PAGE = Path(__file__).parents[2] / "docs" / "duplicates.md"
ROWS, K = 300, 10
#: Images that show the same as another, and one that is like none.
COPIES, STRANGE = {17: 4, 170: 200}, 99


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    x = uneven_blobs(ROWS).astype(np.float32)
    for one, other in COPIES.items():
        x[one] = x[other]
    x[STRANGE] += 60
    return x


@pytest.fixture(scope="module")
def session(spark: SparkSession, vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> SparkSession:
    """A session with the views of a lake that has neighbours."""
    folder = tmp_path_factory.mktemp("neighbours")
    write_case(folder / "case", ROWS, {"osnet": vectors})
    write_paths(folder / "case" / "images_paths.csv", [f"{i}.jpg" for i in range(ROWS)])
    study = {"features": [{"name": "osnet", "descriptor": "osnet", "steps": []}], "neighbours": {"k": K}}
    ctx = run_of(spark, folder / "case", folder / "lake", "parquet", **study)
    for stage in ("ingest", "features", "neighbours"):
        STAGES[stage](ctx)
    ctx.lake.register()
    return spark


def run_example(library: str, session: SparkSession) -> dict[str, Any]:
    """What the names mean at the end of the page's example for a library."""
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if library in c)
    names: dict[str, Any] = {"spark": session}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_datalab_takes_the_graph(session: SparkSession, vectors: np.ndarray) -> None:
    """It finds the planted images, and scores all as it does by a search of its own."""
    cleanlab = pytest.importorskip("cleanlab")
    names = run_example("cleanlab", session)
    assert names["ids"].tolist() == list(range(ROWS))
    graph, issues = names["graph"], names["issues"]
    assert abs(graph - names["lab"].get_info("statistics")["weighted_knn_graph"]).max() == 0
    for one, other in COPIES.items():
        assert issues["is_near_duplicate_issue"][[one, other]].all()
    assert issues["is_outlier_issue"][STRANGE]
    assert issues["outlier_score"].idxmin() == STRANGE

    own = NearestNeighbors(n_neighbors=K).fit(vectors.astype(np.float64)).kneighbors_graph(mode="distance")
    lab = cleanlab.Datalab(data={"image_id": list(range(ROWS))})
    lab.find_issues(knn_graph=own, issue_types={"outlier": {}, "near_duplicate": {}})
    expected = lab.get_issues()
    flags = ["is_outlier_issue", "is_near_duplicate_issue"]
    assert issues[flags].equals(expected[flags])
    scores = ["outlier_score", "near_duplicate_score"]
    np.testing.assert_allclose(issues[scores], expected[scores], rtol=1e-4, atol=1e-6)


def test_a_vector_index_takes_the_vectors(session: SparkSession, vectors: np.ndarray) -> None:
    """An exact index finds the table's neighbours; an approximate one nearly all, by the page's own measure."""
    faiss = pytest.importorskip("faiss")
    names = run_example("faiss", session)
    assert 0.9 < names["recall"] <= 1
    exact = faiss.IndexIDMap(faiss.IndexFlatL2(vectors.shape[1]))
    exact.add_with_ids(names["vectors"], names["ids"])
    squared, _ = exact.search(vectors, K + 1)
    rows = session.sql("SELECT image_id, distance FROM neighbours ORDER BY image_id, rank").toPandas()
    held = rows["distance"].to_numpy().reshape(ROWS, K)
    # Ties may be in another order, but are as far away; its own row is at distance 0.
    np.testing.assert_allclose(held, np.sqrt(np.maximum(squared[:, 1:], 0)), rtol=1e-3, atol=1e-2)

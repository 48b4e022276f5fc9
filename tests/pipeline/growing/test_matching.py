"""Clusters of a new fit keep the ids of those that they continue, through several fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from motorpool import cli
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError
from motorpool.kernels.labels.continuing import continued
from motorpool.lake import Lake
from motorpool.pipeline.growing.matching import Matched, run_match


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 3), (2, 5), (3, 0)])
def test_most_images_stay_with_theirs(shape: tuple[int, int]) -> None:
    """By brute force over all ways; no cluster continues one that it shares nothing with, nor two the same."""
    rng = np.random.default_rng(7)
    for _ in range(50):
        counts = rng.integers(0, 6, shape) * (rng.random(shape) < 0.6)
        found = continued(counts)
        taken = found[found >= 0]
        assert len(found) == len(counts)
        assert len(set(taken.tolist())) == len(taken)
        assert all(counts[i, j] > 0 for i, j in enumerate(found) if j >= 0)
        kept = sum(int(counts[i, j]) for i, j in enumerate(found) if j >= 0)
        wide = np.zeros((shape[0], max(shape)), np.int64)
        wide[:, : shape[1]] = counts
        best = max(sum(int(wide[i, j]) for i, j in enumerate(way)) for way in permutations(range(max(shape)), shape[0]))
        assert kept == best


def lake_of(spark: SparkSession, folder: Path, clusters: Sequence[int], first: int = 0, model: str = "m") -> Lake:
    """A lake of one model, whose images have their numbers from ``first`` on as paths, in another order."""
    lake = Lake(spark, LakeConfig(path=str(folder), format="parquet"))
    n = len(clusters)
    images = [{"image_id": n - i, "path": f"{first + i}.jpg", "vehicle_id": None} for i in range(n)]
    labels = [
        {"model_id": model, "image_id": n - i, "cluster": c, "distance": None, "strength": None, "outlier_score": None}
        for i, c in enumerate(clusters)
    ]
    row = dict.fromkeys(lake.schema("models").names) | {"model_id": model}
    row |= {"n_clusters": len({c for c in clusters if c >= 0}), "n_noise": sum(c < 0 for c in clusters)}
    lake.overwrite_rows("images", images)
    lake.overwrite_rows("models", [row])
    lake.replace_rows("labels", labels, {"model_id": [model]})
    return lake


def ids(lake: Lake) -> list[tuple[int | None, ...]]:
    columns = ("cluster", "stable_id", "earlier_cluster", "n_images", "n_shared")
    return [tuple(r[c] for c in columns) for r in lake.rows("cluster_ids")]


def test_through_three_fits(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = lake_of(spark, tmp_path / "first", [0, 0, 0, 1, 1, 1, 2, 2, -1])
    # Numbers have changed, cluster 2 is gone, and images 9 and 10 are new, and a cluster.
    second = lake_of(spark, tmp_path / "second", [1, 1, 1, 0, 0, 0, 0, -1, -1, 2, 2])
    assert run_match(second, first) == Matched(1, 2, 1, 1)
    assert ids(second) == [(0, 1, 1, 4, 3), (1, 0, 0, 3, 3), (2, 3, None, 2, 0), (None, 2, 2, 0, 0)]
    # Again: the same rows.
    assert run_match(second, first) == Matched(1, 2, 1, 1)
    assert len(ids(second)) == 4
    # Id 2 is not given again; ids go on by the earlier lake's own.
    third = lake_of(spark, tmp_path / "third", [2, 2, 2, 1, 1, 1, 3, 3, 3, 0, 0])
    capsys.readouterr()
    assert cli.main(["match", "--lake", str(tmp_path / "third"), "--earlier", str(tmp_path / "second")]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'third'}: 1 model that {tmp_path / 'second'} has too; ids of clusters: 3 kept, 1 new, 1 gone\n"
    )
    assert ids(third) == [(0, 3, 2, 2, 2), (1, 1, 0, 3, 3), (2, 0, 1, 3, 3), (3, 4, None, 3, 0), (None, 2, None, 0, 0)]


def test_lakes_without_a_model_in_common(spark: SparkSession, tmp_path: Path) -> None:
    one = lake_of(spark, tmp_path / "one", [0, 1])
    other = lake_of(spark, tmp_path / "other", [0, 1], model="n")
    with pytest.raises(LakeError, match=r"one and .*other have no model in common: the same config gives the same"):
        run_match(one, other)

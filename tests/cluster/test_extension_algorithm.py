"""An algorithm is added in one place: its entry in the registry carries it from the config to the report."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pydantic import BeforeValidator, Field
from pyspark.sql import DataFrame, SparkSession

from cases import write_case
from motorpool import cli
from motorpool.cluster.algorithm import Algorithm
from motorpool.cluster.fitting import Fitting
from motorpool.cluster.grid import ModelGrid
from motorpool.cluster.labelled import Labelled, LabelledBlock
from motorpool.cluster.models import Facts, FittedModels, ModelSpec, numbers
from motorpool.cluster.registry import ALGORITHMS
from motorpool.cluster.stored import NewImages, labels_of_one
from motorpool.config.load import parse_config
from motorpool.config.run import ClusterConfig, LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.rejudge import _judge
from motorpool.settings import parse_counts
from motorpool.spark import blocks


class SignGrid(ModelGrid):
    """Two clusters: vectors whose ``column`` is below 0, and all others."""

    crossed = ("column",)
    seeded = False

    algorithm: Literal["sign"] = Field(description="Name of the algorithm.")
    column: Annotated[tuple[int, ...], BeforeValidator(parse_counts)] = Field(description="Columns to look at.")


def by_sign(block_df: DataFrame, columns: Sequence[int]) -> Labelled:
    chosen = list(columns)

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, x in blocks.block_arrays(batch):
            yield LabelledBlock(ids, x, (x[:, chosen] >= 0).astype(np.int32))

    # All rows are near 0, so sums about it keep their digits.
    return Labelled(block_df, label, (2,) * len(chosen), np.zeros(2))


def fit(fitting: Fitting, grid: SignGrid, specs: Sequence[ModelSpec]) -> FittedModels:
    columns = numbers(specs, "column")
    facts = [Facts(0.1, parameters={"column": np.array([column])}) for column in columns]
    return FittedModels.of(by_sign(fitting.block_df, columns), specs, facts)


def relabel(new: NewImages) -> DataFrame:
    return labels_of_one(by_sign(new.blocks, [int(new.model.arrays["column"][0])]))


SIGN = Algorithm("sign", "sign of a column", SignGrid, fit, stored=("column",), relabel=relabel)


@pytest.fixture
def sign() -> Iterator[None]:
    ALGORITHMS.register(SIGN)
    yield
    ALGORITHMS.unregister("sign")


def config(**grid: Any) -> dict[str, Any]:
    return {"lake": {"path": "lake"}, "cluster": {"models": [grid]}}


def test_a_config_knows_the_algorithms_that_are_registered(sign: None) -> None:
    (grid,) = parse_config(config(algorithm="sign", column="0..1")).cluster.models
    assert isinstance(grid, SignGrid)
    assert list(grid.variants(7)) == [{"column": "0"}, {"column": "1"}]
    assert parse_config(config(algorithm="sign", column="0..1")).model_dump()["cluster"]["models"] == [
        {"features": None, "algorithm": "sign", "column": (0, 1)}
    ]
    with pytest.raises(ConfigError, match=r"^config: cluster\.models\[0\]\.colunm: unknown key$"):
        parse_config(config(algorithm="sign", column=0, colunm=0))


def test_a_config_refuses_the_others() -> None:
    with pytest.raises(ConfigError, match=r"models\[0\]\.algorithm: 'sign': expected one of kmeans, .*mixture$"):
        parse_config(config(algorithm="sign", column=0))


ROW = {
    "features": "x", "algorithm": "sign", "params": {"column": "0"}, "n_clusters": 2, "n_noise": 0, "sizes": [1, 99],
    "status": "ok", "reason": None, "calinski_harabasz": 9.0, "davies_bouldin": 0.5, "silhouette": 0.6,
}  # fmt: skip


def test_models_in_the_lake_are_judged_again_by_their_algorithm(sign: None) -> None:
    reason, n_clusters = _judge(ROW, ClusterConfig(min_cluster_share=0.1))
    assert str(reason).startswith("the smallest cluster holds 1 images")
    assert n_clusters == 2


def test_models_of_an_algorithm_that_is_not_registered_keep_their_judgement() -> None:
    assert _judge(ROW, ClusterConfig(min_cluster_share=0.1)) == (None, 2)


def test_an_entry_that_contradicts_itself_is_refused(sign: None) -> None:
    with pytest.raises(ValueError, match="'sign': is registered already"):
        ALGORITHMS.register(SIGN)
    with pytest.raises(ValueError, match="'other': its grid needs the field `algorithm: Literal"):
        ALGORITHMS.register(replace(SIGN, name="other"))
    with pytest.raises(ValueError, match="both `stored` and `relabel`"):
        replace(SIGN, stored=())
    assert "other" not in ALGORITHMS


def test_an_algorithm_goes_from_the_config_to_the_report_and_to_new_images(
    spark: SparkSession, tmp_path: Path, sign: None
) -> None:
    rng = np.random.default_rng(4)
    x = (rng.choice([-4.0, 4.0], size=(36, 2)) + rng.normal(size=(36, 2))).astype(np.float32)
    write_case(tmp_path / "case", len(x), {"x": x})
    write_case(tmp_path / "new", 9, {"x": -x[:9]})
    models = [{"algorithm": "sign", "column": [0, 1]}, {"algorithm": "kmeans", "k": 2}]
    content = {
        "case": {"path": str(tmp_path / "case")},
        "lake": {"path": str(tmp_path / "lake"), "format": "parquet"},
        "features": [{"descriptor": "x"}],
        "cluster": {"models": models},
        "report": {"sample": 0},
    }
    conf = tmp_path / "run.yaml"
    conf.write_text(yaml.safe_dump(content))
    assert cli.main(["run", "--conf", str(conf)]) == 0
    lake = Lake(spark, LakeConfig(path=str(tmp_path / "lake"), format="parquet"))

    board = lake.leaderboard().where("algorithm = 'sign'").collect()
    assert {r["params"]["column"]: r["n_clusters"] for r in board} == {"0": 2, "1": 2}
    assert all(r["rank"] is not None and r["calinski_harabasz"] > 0 for r in board)
    for row in board:
        labels = lake.read("labels", model_id=row["model_id"]).orderBy("image_id").collect()
        assert [r["cluster"] for r in labels] == (x[:, int(row["params"]["column"])] >= 0).astype(int).tolist()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "sign of a column" in page

    (model,) = (r["model_id"] for r in board if r["params"]["column"] == "1")
    args = ["assign", "--lake", str(tmp_path / "lake"), "--case", str(tmp_path / "new"), "--model", model]
    assert cli.main([*args, "--out", str(tmp_path / "new.csv")]) == 0
    with open(tmp_path / "new.csv") as f:
        assert [int(r["cluster"]) for r in csv.DictReader(f)] == (-x[:9, 1] >= 0).astype(int).tolist()

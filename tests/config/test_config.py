"""Configs: each mistake is refused before Spark starts, by a message that names the key and the value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from motorpool.config.load import load_case, load_config, parse_config
from motorpool.config.run import CaseConfig, Config
from motorpool.errors import ConfigError
from motorpool.features.spec import Step

ROOT = Path(__file__).resolve().parents[2]


def good(**changes: Any) -> dict[str, Any]:
    """A correct config; a dotted key replaces one value, None leaves a top-level section out."""
    data: dict[str, Any] = {
        "case": {"path": "demo/case"},
        "lake": {"path": "demo/lake"},
        "features": [{"descriptor": "osnet", "steps": [{"pca": 4}, "standard"]}],
        "cluster": {"models": [{"algorithm": "kmeans", "k": "2..4"}]},
    }
    return {k: v for k, v in (data | changes).items() if v is not None}


def model(**values: Any) -> dict[str, Any]:
    return good(cluster={"models": [{"algorithm": "kmeans", "k": 3, **values}]})


def grid(algorithm: str, **values: Any) -> dict[str, Any]:
    return good(cluster={"models": [{"algorithm": algorithm, **values}]})


def steps(*values: Any) -> dict[str, Any]:
    return good(features=[{"descriptor": "osnet", "steps": list(values)}])


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, "my.yaml")
    assert caught.value.exit_status == 2
    return str(caught.value)


WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    ("unknown section", good(clusters={}), ["my.yaml: clusters: unknown key"]),
    ("unknown key", good(case={"path": "x", "pathh": "y"}), ["case.pathh: unknown key"]),
    ("unknown key in a list", model(kk=3), ["cluster.models[0].kk: unknown key"]),
    ("a number for a key", good(lake={"path": "x", 7: 1}), ["lake[7]", "should be strings"]),
    ("no lake", good(lake=None), ["lake:", "required"]),
    ("no place in lake", good(lake={"format": "delta"}), ["lake:", "`path`", "`schema`"]),
    ("two places in lake", good(lake={"path": "x", "schema": "y"}), ["lake:", "either `path`, or `schema`"]),
    ("a catalog alone", good(lake={"catalog": "c"}), ["lake:", "`schema`"]),
    ("a catalog beside a path", good(lake={"path": "x", "catalog": "c"}), ["lake:", "catalog", "schema"]),
    ("an empty lake path", good(lake={"path": ""}), ["lake", "path", "empty"]),
    ("Parquet in a catalog", good(lake={"schema": "s", "format": "parquet"}), ["lake:", "parquet", "Delta"]),
    ("Parquet on an object store", good(lake={"path": "s3://b/x", "format": "parquet"}), ["lake", "s3://b/x", "delta"]),
    ("Parquet under a scheme", good(lake={"path": "dbfs:/x", "format": "parquet"}), ["lake", "dbfs:/x", "delta"]),
    ("a lake format", good(lake={"path": "x", "format": "orc"}), ["lake.format", "'orc'", "'delta' or 'parquet'"]),
    ("injection in schema", good(lake={"schema": "s`; DROP TABLE t; --"}), ["lake.schema", "DROP TABLE", "letters"]),
    ("injection in catalog", good(lake={"schema": "s", "catalog": "a b"}), ["lake.catalog", "'a b'", "letters"]),
    ("half a case", good(case={"images_paths": "x.csv"}), ["case:", "`path`", "`descriptors`"]),
    (
        "photos of a catalog",
        good(case={"images_root": {"table": "main.vision.photos"}}),
        ["case.images_root", "{table: main.vision.photos}", "folder", "DESCRIBE TABLE EXTENDED main.vision.photos"],
    ),
    (
        "a column of photos",
        good(case={"images_root": {"file": "p.parquet", "column": "image"}}),
        ["case.images_root", "'p.parquet'", "as text"],
    ),
    ("no descriptors", good(case={"images_paths": "x.csv", "descriptors": {}}), ["case:", "`descriptors`"]),
    ("a descriptor's name", good(case={"path": "x", "descriptors": {"a b": "f.npy"}}), ["case.descriptors", "'a b'"]),
    ("a pattern", good(case={"path": "x", "vehicle_pattern": "(("}), ["vehicle_pattern '(('", "regular expression"]),
    ("a pattern without group", good(case={"path": "x", "vehicle_pattern": "a.*"}), ["vehicle_pattern 'a.*'", "group"]),
    ("on_bad_rows", good(case={"path": "x", "on_bad_rows": "skip"}), ["case.on_bad_rows", "'skip'", "'drop'"]),
    ("unknown step", steps("whiten"), ["features[0].steps", "'whiten'", "standard"]),
    ("no components", steps("pca"), ["features[0].steps", "pca: None", "whole number"]),
    ("zero components", steps({"pca": 0}), ["features[0].steps", "pca: 0"]),
    ("share of 1.5", steps({"svd": 1.5}), ["features[0].steps", "svd: 1.5", "between 0 and 1"]),
    ("quantiles turned round", steps({"clip": [0.9, 0.1]}), ["features[0].steps", "clip: [0.9, 0.1]", "low < high"]),
    ("a step with a value", steps({"l2": 3}), ["features[0].steps", "'l2'", "3"]),
    ("two steps in one", steps({"l2": None, "pca": 3}), ["features[0].steps", "not a step"]),
    ("steps as text", good(features=[{"descriptor": "a", "steps": "l2"}]), ["features[0].steps", "'l2'", "list"]),
    ("no descriptor", good(features=[{"steps": ["l2"]}]), ["features[0]", "`descriptor` or `join`"]),
    ("both", good(features=[{"descriptor": "a", "join": [{"descriptor": "a"}, {"descriptor": "b"}]}]), ["features[0]"]),
    ("a join of one", good(features=[{"join": [{"descriptor": "a"}]}]), ["features[0].join", "2"]),
    ("a join with itself", good(features=[{"join": [{"descriptor": "a"}, {"descriptor": "a"}]}]), ["join", "twice"]),
    (
        "a weight of zero",
        good(features=[{"join": [{"descriptor": "a", "weight": 0}, {"descriptor": "b"}]}]),
        ["features[0].join[0].weight", "0", "greater than 0"],
    ),
    (
        "an infinite weight",
        good(features=[{"join": [{"descriptor": "a", "weight": float("inf")}, {"descriptor": "b"}]}]),
        ["features[0].join[0].weight", "inf", "finite"],
    ),
    ("one name twice", good(features=[{"descriptor": "a"}] * 2), ["features", "'a'", "twice"]),
    ("a bad name", good(features=[{"descriptor": "a", "name": "../a"}]), ["features[0].name", "'../a'", "letters"]),
    (
        "a default name too long",
        good(features=[{"join": [{"descriptor": "a" * 60}, {"descriptor": "b" * 60}]}]),
        ["features[0]", "aaa", "name"],
    ),
    ("k of one", model(k=1), ["cluster.models[0].k", "1", "greater than or equal to 2"]),
    ("k as text", model(k="many"), ["cluster.models[0].k", "'many'", "2..15"]),
    ("k turned round", model(k="9..2"), ["cluster.models[0].k", "'9..2'", "smaller number first"]),
    ("k empty", model(k=[]), ["cluster.models[0].k", "at least one number"]),
    (
        "no linkage",
        grid("agglomerative", n_clusters=3, linkage=[]),
        ["cluster.models[0].linkage", "at least one"],
    ),
    (
        "no covariance type",
        grid("gaussian_mixture", n_components=3, covariance_type=[]),
        ["cluster.models[0].covariance_type", "at least one"],
    ),
    ("a grid on no feature set", model(features=[]), ["cluster.models[0].features", "at least 1"]),
    ("outliers of no feature set", good(outliers={"features": []}), ["outliers.features", "at least 1"]),
    ("k as fraction", model(k=2.5), ["cluster.models[0].k", "2.5", "whole number"]),
    ("n_init", model(n_init=0), ["cluster.models[0].n_init", "0", "greater than or equal to 1"]),
    ("max_iter", model(max_iter="x"), ["cluster.models[0].max_iter", "'x'", "integer"]),
    ("tol", model(tol=-1), ["cluster.models[0].tol", "-1"]),
    ("algorithm", model(algorithm="dbscam"), ["cluster.models[0].algorithm", "'dbscam'", "kmeans"]),
    ("no algorithm", good(cluster={"models": [{"k": 3}]}), ["cluster.models[0].algorithm", "None", "hdbscan"]),
    ("eps of zero", grid("dbscan", eps=[1, 0], min_samples=5), ["cluster.models[0].eps", "0", "above 0"]),
    ("eps below zero", grid("dbscan", eps=-1, min_samples=5), ["cluster.models[0].eps", "-1", "above 0"]),
    ("eps nan", grid("dbscan", eps=float("nan"), min_samples=5), ["cluster.models[0].eps", "nan", "above 0"]),
    ("eps as text", grid("dbscan", eps="some", min_samples=5), ["cluster.models[0].eps", "'some'", "`auto`"]),
    ("no eps", grid("dbscan", eps=[], min_samples=5), ["cluster.models[0].eps", "at least one"]),
    ("min_samples", grid("dbscan", eps=1, min_samples=0), ["cluster.models[0].min_samples[0]", "0", "equal to 1"]),
    ("metric", grid("dbscan", eps=1, min_samples=5, metric="l1"), ["cluster.models[0].metric", "'l1'", "'cosine'"]),
    ("min_cluster_size", grid("hdbscan", min_cluster_size=1), ["cluster.models[0].min_cluster_size[0]", "1"]),
    ("method", grid("hdbscan", min_cluster_size=5, method="x"), ["cluster.models[0].method", "'x'", "'leaf'"]),
    ("n_components", grid("gaussian_mixture", n_components=1), ["cluster.models[0].n_components[0]", "1"]),
    (
        "covariance_type",
        grid("gaussian_mixture", n_components=2, covariance_type=["full", "round"]),
        ["cluster.models[0].covariance_type[1]", "'round'", "'tied'"],
    ),
    ("reg_covar", grid("gaussian_mixture", n_components=2, reg_covar=-1), ["cluster.models[0].reg_covar", "-1"]),
    ("linkage", grid("agglomerative", n_clusters=2, linkage="far"), ["cluster.models[0].linkage[0]", "'far'"]),
    (
        "more clusters than micro-clusters",
        grid("agglomerative", n_clusters=9, micro_clusters=5),
        ["cluster.models[0]", "n_clusters: 9", "micro_clusters = 5"],
    ),
    ("batch_size", grid("minibatch_kmeans", k=2, batch_size=0), ["cluster.models[0].batch_size", "0"]),
    ("another's key", grid("bisecting_kmeans", k=2, eps=1), ["cluster.models[0].eps", "unknown key"]),
    ("too many cells", grid("dbscan", eps=[*range(1, 101)], min_samples="1..6"), ["cluster.models[0]", "600", "512"]),
    ("max_noise_share", good(cluster={"max_noise_share": 0}), ["cluster.max_noise_share", "0", "greater than 0"]),
    ("outlier method", good(outliers={"methods": ["luck"]}), ["outliers.methods[0]", "'luck'", "'lof'"]),
    ("outlier method twice", good(outliers={"methods": ["lof", "lof"]}), ["outliers", "twice"]),
    ("models on no set", model(features=["type"]), ["cluster.models[0].features", "'type'", "osnet-pca4-standard"]),
    ("share", good(cluster={"min_cluster_share": 0.5}), ["cluster.min_cluster_share", "0.5", "less than 0.5"]),
    ("seed", good(seed=-1), ["seed", "-1"]),
    ("seed as text", good(seed="lucky"), ["seed", "'lucky'"]),
    ("accelerator", good(accelerator="tpu"), ["accelerator", "'tpu'", "'cpu'"]),
    ("a list for a section", good(case=["x"]), ["case", "['x']"]),
    ("spark as text", good(spark="fast"), ["spark", "'fast'"]),
    ("a spark setting that is a list", good(spark={"spark.x": [1]}), ["spark", "spark.x", "[1]"]),
    ("a spark setting that is empty", good(spark={"spark.x": None}), ["spark", "spark.x", "None"]),
]


@pytest.mark.parametrize(("data", "parts"), [pytest.param(d, p, id=i) for i, d, p in WRONG])
def test_a_wrong_config_names_key_and_value(data: dict[str, Any], parts: list[str]) -> None:
    message = refusal(data)
    assert [p for p in parts if p not in message] == [], message
    assert len(message.splitlines()) == 1
    assert "my.yaml" in message


def test_all_problems_are_told_at_once() -> None:
    data = good(case={"path": "x", "colour": 1}, lake={"path": "x", "format": "orc"}, seed=-1)
    data |= {"features": [{"descriptor": "a", "steps": ["whiten"]}, {"descriptor": "b b"}]}
    data |= {"cluster": {"models": [{"algorithm": "kmeans", "k": 1}, {"algorithm": "kmeans", "k": "x"}]}}
    lines = refusal(data).splitlines()
    for key in ("case.colour", "lake.format", "seed", "features[0].steps", "features[1].descriptor"):
        assert sum(f" {key}:" in line for line in lines) == 1, lines
    assert sum("cluster.models[0].k" in line for line in lines) == 1
    assert sum("cluster.models[1].k" in line for line in lines) == 1
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("written", "read"),
    [(9, (9,)), ([9, 2, 9], (2, 9)), ("2..5", (2, 3, 4, 5)), (["2..3", 7], (2, 3, 7)), ("4..4", (4,))],
)
def test_counts(written: object, read: tuple[int, ...]) -> None:
    assert parse_config(model(k=written)).cluster.models[0].k == read


def test_what_is_left_out_has_a_default() -> None:
    config = parse_config({"lake": {"path": "x"}})
    assert (config.seed, config.feature_sets, config.cluster.models, config.spark) == (42, [], [], {})
    with pytest.raises(ConfigError, match=r"case: is missing.*--set case.path"):
        config.require_case()


@pytest.mark.parametrize("file", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda f: f.name)
def test_the_shipped_configs_are_valid(file: Path) -> None:
    config = load_config(file)
    assert config.feature_sets
    assert config.cluster.models


class TestOverrides:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(good()))
        return file

    def load(self, file: Path, *overrides: str) -> Config:
        return load_config(file, overrides)

    def test_nested_keys(self, file: Path) -> None:
        config = self.load(file, "case.path=/a b", "seed=7", "cluster.min_cluster_share=0.01", "lake.format=parquet")
        assert config.case is not None
        assert (config.case.path, config.seed, config.cluster.min_cluster_share) == ("/a b", 7, 0.01)
        assert config.lake.format == "parquet"

    def test_keys_that_the_file_does_not_hold(self, file: Path) -> None:
        config = self.load(file, "case.descriptors.osnet=/x.npy", "case.vehicle_pattern=null")
        assert config.case is not None
        assert config.case.descriptors == {"osnet": "/x.npy"}
        assert config.case.vehicle_pattern is None

    def test_list_positions(self, file: Path) -> None:
        config = self.load(file, "cluster.models.0.k=2..3", "features.0.steps.0={pca: 3}")
        assert config.cluster.models[0].k == (2, 3)
        assert config.feature_sets[0].steps == (Step("pca", 3), Step("standard"))

    def test_whole_lists(self, file: Path) -> None:
        config = self.load(file, "features=[{descriptor: a}, {descriptor: b}]")
        assert [fs.name for fs in config.feature_sets] == ["a", "b"]

    def test_later_ones_win(self, file: Path) -> None:
        assert self.load(file, "seed=1", "seed=2").seed == 2

    def test_a_value_may_hold_an_equals_sign(self, file: Path) -> None:
        assert self.load(file, "lake.path=/a=b").lake.path == "/a=b"

    def test_spark_keys_keep_their_dots_and_are_text(self, file: Path) -> None:
        config = self.load(file, "spark.spark.sql.shuffle.partitions=4", "spark.spark.ui.enabled=true")
        assert config.spark == {"spark.sql.shuffle.partitions": "4", "spark.ui.enabled": "true"}

    def test_spark_keys_without_the_section_in_front(self, file: Path) -> None:
        config = self.load(file, "spark.sql.shuffle.partitions=4", "spark.master=local[1]")
        assert config.spark == {"spark.sql.shuffle.partitions": "4", "spark.master": "local[1]"}

    @pytest.mark.parametrize(
        ("override", "parts"),
        [
            ("seed", ["--set seed", "key.sub=value"]),
            ("=3", ["--set =3", "key.sub=value"]),
            ("seed={", ["--set seed={", "YAML"]),
            ("sed=3", ["sed: unknown key"]),
            ("case.pth=3", ["case.pth: unknown key"]),
            ("lake.format.x=3", ["lake.format"]),
            ("case.path.x=3", ["--set case.path.x", "case.path is 'demo/case'", "no keys"]),
            ("features.1.name=a", ["--set features.1.name", "features is a list of 1", "'1'"]),
            ("features.x.name=a", ["--set features.x.name", "'x'"]),
            ("features.-1.name=a", ["--set features.-1.name", "'-1'"]),
            ("features.².name=a", ["--set features.².name", "'²'"]),
            ("cluster.models.0.k=1", ["cluster.models[0].k", "1"]),
        ],
    )
    def test_wrong_ones(self, file: Path, override: str, parts: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            self.load(file, override)
        assert [p for p in parts if p not in str(caught.value)] == []


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"case: [", "is no valid YAML"),
            (b"- a\n- b\n", "found list"),
            (b"just text", "found str"),
            (b"\xff\x00c", "UTF-8"),
            (b"name: K\xf6ln", "it is no UTF-8 text (byte 7: invalid start byte): save it as UTF-8"),
            (b"lake: {path: !!python/object/apply:os.system [ls]}", "is no valid YAML"),
            (b"", "lake: "),
        ],
    )
    def test_what_is_no_config(self, tmp_path: Path, content: bytes, expected: str) -> None:
        file = tmp_path / "x.yaml"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        assert str(file) in str(caught.value)
        assert expected in str(caught.value)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read the config: No such file"):
            load_config(tmp_path / "none.yaml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read the config: Is a directory"):
            load_config(tmp_path)


def test_a_file_of_a_case_alone(tmp_path: Path) -> None:
    """Other sections may be anything, and none; what is wrong with the case is named."""
    file = tmp_path / "new.yaml"
    for further in ("", "lake: {path: x}\nfeatures: nonsense\n"):
        file.write_text(f"case: {{path: new, on_bad_rows: drop}}\n{further}")
        assert load_case(file) == CaseConfig(path="new", on_bad_rows="drop")
    for text, message in (
        ("lake: {path: x}", "new.yaml: case: Field required"),
        ("case: {path: x, colour: 1}", "new.yaml: case.colour: unknown key"),
        ("[1]", "expected keys such as `case:`"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_case(file)

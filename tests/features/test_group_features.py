"""Steps by groups against pandas and scikit-learn, through the lake, and for new images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from cases import blobs, run_of, write_case
from motorpool.config.load import parse_config
from motorpool.config.run import CaseConfig
from motorpool.errors import CaseError, ConfigError, LakeError
from motorpool.features import group_steps
from motorpool.features.fit import Fitted, Fitter, transform
from motorpool.features.group_steps import attach
from motorpool.features.program import Program
from motorpool.features.spec import FeatureSet, Part, Step, check_order, parse_step
from motorpool.features.vehicle_steps import Vehicles
from motorpool.kernels.group_moments import GroupMoments
from motorpool.outliers.reconstruction import pca_error
from motorpool.pipeline.assign import run_assign
from motorpool.pipeline.growing.append import run_append
from motorpool.pipeline.planning.checks import look
from motorpool.pipeline.run import STAGES
from motorpool.pipeline.stages.features import load_program

CENTER = {"group_center": {"by": "camera"}}
STANDARD = {"group_standard": {"by": "camera"}}
#: Most rows in three cameras; a camera of too few, and rows without one.
N = 400


def cameras(n: int = N, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    names = rng.choice(np.array(["b", "a", "Ölberg 'c'"], object), n)
    names[:5], names[5:17] = "rare", None
    return names


def made(names: np.ndarray, d: int = 7, seed: int = 8) -> np.ndarray:
    """float32[n, d]: every group around a centre of its own; a column that is constant in a group, one in all."""
    rng = np.random.default_rng(seed)
    centres = {name: rng.normal(size=d) * 5 for name in sorted(set(names) - {None})} | {None: np.zeros(d)}
    x = rng.normal(size=(len(names), d)) * np.linspace(1, 3, d) + np.stack([centres[name] for name in names])
    x[names == "a", 2] = 4.25
    x[:, -2] = -0.1
    return x.astype(np.float32)


def chain(*raw: Any, name: str = "", descriptor: str = "x") -> FeatureSet:
    steps = tuple(parse_step(step) for step in raw)
    return FeatureSet(name or " > ".join(map(str, steps)), (Part(descriptor),), steps)


def by_group(x: np.ndarray, names: np.ndarray, scale: bool) -> np.ndarray:
    """The truth in float64: each large group by itself, all others by the numbers of all rows."""
    x = x.astype(np.float64)
    counts = pd.Series(names).value_counts()
    out = StandardScaler(with_std=scale).fit(x).transform(x)
    for name in counts[counts >= group_steps.MIN_IMAGES].index:
        rows = names == name
        out[rows] = StandardScaler(with_std=scale).fit_transform(x[rows])
    return out


@pytest.fixture
def beside(spark: SparkSession, wide: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """A wide frame with the columns of groups beside its arrays."""

    def make(columns: dict[str, np.ndarray], partitions: int = 3, **arrays: np.ndarray) -> DataFrame:
        n = len(next(iter(columns.values())))
        texts = {name: pa.array(list(values), pa.string()) for name, values in columns.items()}
        images = spark.createDataFrame(pa.table({"image_id": pa.array(np.arange(n)), **texts}))
        return attach(wide(partitions, **arrays), images, list(columns), n)

    return make


def rows_of(df: DataFrame) -> np.ndarray:
    return np.array(df.orderBy("image_id").toPandas()["vector"].tolist(), np.float32)


# -- as written --------------------------------------------------------------------------------------


def test_steps_are_read() -> None:
    step = parse_step(CENTER)
    assert step == Step("group_center", "camera")
    assert (str(step), step.slug, step.by) == ("group_center: {by: camera}", "group_center_camera", "camera")
    assert parse_step("standard").by is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("group_center", "group_center: None: expected a column of the table `images`, such as {group_center: {by: c"),
        ({"group_standard": "camera"}, "group_standard: 'camera': expected a column"),
        ({"group_center": {"by": 3}}, "expected a column"),
        ({"group_center": {"by": ""}}, "expected a column"),
        ({"group_center": {"by": "camera", "min": 3}}, "expected a column"),
        ({"group_center": {"by": "image_id"}}, "by 'image_id': every image has its own, so name an attribute"),
        ({"group_center": {"by": "Path"}}, "by 'Path': every image has its own"),
        ({"group_center": {"by": "vehicle_id"}}, "take vehicle_residual or vehicle_within"),
    ],
    ids=str,
)
def test_what_names_no_column_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        parse_step(raw)


def test_they_stand_in_front_of_means_of_vehicles() -> None:
    for kind in ("vehicle_mean", "vehicle_residual"):
        with pytest.raises(ValueError, match=rf"group_center behind {kind}: put it in front"):
            check_order((Part("x"),), (parse_step(kind), parse_step(CENTER)))
        check_order((Part("x"),), (parse_step(CENTER), parse_step(kind)))
    check_order((Part("x", (parse_step(CENTER),)), Part("y")), ())


def test_the_column_is_part_of_the_definition() -> None:
    camera, hour = chain(CENTER, name="f"), chain({"group_center": {"by": "hour"}}, name="f")
    assert camera.fingerprint != hour.fingerprint
    assert camera.group_columns == ("camera",)
    assert "group_columns" not in chain("standard").definition


# -- the kernel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_moments_of_groups_equal_pandas_for_any_split(shift: float) -> None:
    names = np.random.default_rng(1).integers(0, 5, 300)
    names[names == 3] = 4  # No row is in group 3.
    x = (np.random.default_rng(2).normal(size=(300, 4)) + shift).astype(np.float32)
    truth = pd.DataFrame(x.astype(np.float64)).groupby(names)
    for size in (300, 64, 1):
        left, right = GroupMoments(4), GroupMoments(4)
        for at in range(0, 300, size):
            (left if at % (2 * size) else right).update(names[at : at + size], x[at : at + size])
        left.merge(right)
        left.merge(GroupMoments(4))
        there = sorted(truth.groups)
        assert left.n.tolist() == [int((names == g).sum()) for g in range(5)]
        np.testing.assert_allclose(left.mean[there], truth.mean(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(left.squares[there] / left.n[there][:, None], truth.var(ddof=0), rtol=1e-9)
        assert np.array_equal(left.min[there], truth.min().to_numpy(np.float32))
        whole = left.pooled()
        np.testing.assert_allclose(whole.mean[-1], x.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole.squares[-1] / 300, x.astype(np.float64).var(axis=0), rtol=1e-9)
        assert np.array_equal(whole.max[-1], x.max(axis=0))
    empty = GroupMoments(2)
    empty.update(np.zeros(0, int), np.zeros((0, 3), np.float32))
    assert empty.n.sum() == 0


# -- against scikit-learn ------------------------------------------------------------------------------


def fit(df: DataFrame, *sets: FeatureSet) -> tuple[list[Fitted], list[np.ndarray], int]:
    with Fitter(df, sets, seed=1) as fitter:
        items = fitter.fit()
        return items, [rows_of(fitter.transform(item)) for item in items], fitter.n_passes


def test_every_group_is_scaled_by_itself(beside: Callable[..., DataFrame], caplog: pytest.LogCaptureFixture) -> None:
    names = cameras()
    x = made(names)
    caplog.set_level("INFO")
    df = beside({"camera": names}, x=x)
    (center, standard), (centred, scaled), passes = fit(df, chain(CENTER), chain(STANDARD))
    # One grouped pass for both.
    assert passes == 1
    np.testing.assert_allclose(centred, by_group(x, names, scale=False), atol=1e-6)
    np.testing.assert_allclose(scaled, by_group(x, names, scale=True), atol=1e-6)
    # A column that is constant in a group, or in all of them, comes out as zero.
    assert not scaled[names == "a", 2].any()
    assert not scaled[:, 5].any()
    op = standard.program.ops[0]
    assert op.groups == ("a", "b", "Ölberg 'c'")
    assert op.fields["rows"].tolist() == [*((names == g).sum() for g in op.groups), N]
    assert "17 images are in none of the 3 groups of 10 images or more" in caplog.text
    # Back from the lake's rows in any order, and for new images of other groups.
    for item in (center, standard):
        again = Program.from_rows(item.program.to_rows()[::-1])
        assert again.group_columns == ("camera",)
        assert np.array_equal(rows_of(transform(df, again)), centred if item is center else scaled)
    strange = pa.array(["new", None, "a"], pa.string())
    found = standard.program.apply([x[:3]], {"camera": strange})
    everyone = StandardScaler().fit(x.astype(np.float64))
    np.testing.assert_allclose(found[:2], everyone.transform(x[:2].astype(np.float64)), atol=1e-6)


CHAINS: list[tuple[Any, ...]] = [
    (CENTER, {"pca": 3}),
    ({"pca": 4}, CENTER),
    ({"pca": 4}, STANDARD, "l2", {"pca": 2}, "minmax"),
    ("l2", STANDARD),
    (CENTER, "standard"),
    ("standard", CENTER, {"pca": 3}, STANDARD),
    (CENTER, {"group_standard": {"by": "hour"}}),
    ({"pca": 4}, CENTER, {"group_standard": {"by": "hour"}}),
]


def truth_of(item: Fitted, x: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """The chain in float64, projections with our signs."""
    y = x.astype(np.float64)
    for step, op in zip(item.spec.steps, item.program.ops, strict=True):
        if step.by is not None:
            y = by_group(y, columns[step.by], step.kind == "group_standard")
        elif step.kind == "pca":
            model = PCA(step.param, svd_solver="full").fit(y)
            model.components_ *= np.sign((model.components_.T * op.fields["components"]).sum(axis=0))[:, None]
            y = model.transform(y)
        elif step.kind == "minmax":
            y = (y - y.min(axis=0)) / (y.max(axis=0) - y.min(axis=0))
        else:
            y = normalize(y) if step.kind == "l2" else StandardScaler().fit_transform(y)
    return y


def test_chains_equal_scikit_learn(beside: Callable[..., DataFrame]) -> None:
    columns = {"camera": cameras(), "hour": np.array([str(i % 4) for i in range(N)], object)}
    x = made(columns["camera"])
    df = beside(columns, x=x)
    items, found, _ = fit(df, *(chain(*raw) for raw in CHAINS))
    for item, ours in zip(items, found, strict=True):
        truth = truth_of(item, x, columns)
        assert np.abs(ours - truth).max() <= 1e-4 * truth.std(axis=0).max(), item.spec.name
        assert np.allclose(rows_of(transform(df, item.program)), ours, atol=1e-5), item.spec.name


def test_parts_of_a_join_have_groups_of_their_own(beside: Callable[..., DataFrame]) -> None:
    names = cameras()
    x, y = made(names), made(names, 4, seed=3)
    parts = (Part("x", (parse_step(CENTER),), 2.0), Part("y", (parse_step(STANDARD),)))
    spec = FeatureSet("joined", parts, (parse_step({"pca": 3}),))
    (item,), (ours,), _ = fit(beside({"camera": names}, x=x, y=y), spec)
    both = np.hstack([2 * by_group(x, names, scale=False), by_group(y, names, scale=True)])
    model = PCA(3, svd_solver="full").fit(both)
    signs = np.sign((model.components_.T * item.program.ops[0].fields["components"]).sum(axis=0))
    np.testing.assert_allclose(ours, model.transform(both) * signs, atol=1e-3)


def test_vehicles_are_looked_at_behind_the_groups(spark: SparkSession, beside: Callable[..., DataFrame]) -> None:
    names = cameras()
    x, df = made(names), beside({"camera": names}, x=made(names))
    of = pa.table({"image_id": pa.array(np.arange(N)), "vehicle_id": pa.array([str(i // 4) for i in range(N)])})
    vehicles = Vehicles.of(spark.createDataFrame(of))
    sets = [chain(CENTER, "vehicle_mean"), chain({"pca": 4}, CENTER, {"vehicle_whiten": 2})]
    with Fitter(df, sets, 1, vehicles) as fitter:
        items = fitter.fit()
        merged, whitened = (rows_of(fitter.transform(item)) for item in items)
    means = by_group(x, names, scale=False).reshape(N // 4, 4, -1).mean(axis=1)
    np.testing.assert_allclose(merged, np.repeat(means, 4, axis=0), atol=1e-5)
    np.testing.assert_allclose(rows_of(transform(df, items[0].program, vehicles)), merged, atol=1e-6)
    np.testing.assert_allclose(rows_of(transform(df, items[1].program)), whitened, atol=1e-5)


def test_the_reconstruction_error_looks_behind_the_groups(beside: Callable[..., DataFrame]) -> None:
    names = cameras()
    x = made(names)
    df = beside({"camera": names}, x=x)
    (item,), _, _ = fit(df, chain(CENTER, {"pca": 3}))
    centred = by_group(x, names, scale=False)
    model = PCA(3, svd_solver="full").fit(centred)
    theirs = np.linalg.norm(centred - model.inverse_transform(model.transform(centred)), axis=1)
    ours = pca_error(df, item.program).orderBy("image_id").toPandas()["score"].to_numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


# -- edges -------------------------------------------------------------------------------------------


def test_one_group_is_the_plain_step(beside: Callable[..., DataFrame]) -> None:
    names = np.array(["a"] * 40, object)
    x = made(cameras(), 5)[:40]
    _, (ours, plain), _ = fit(beside({"camera": names}, partitions=7, x=x), chain(STANDARD), chain("standard"))
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_values_far_from_zero_and_huge_ones_keep_their_digits(beside: Callable[..., DataFrame]) -> None:
    names = np.array(["a", "b"] * 50, object)
    rng = np.random.default_rng(3)
    x = np.stack(
        [
            rng.normal(size=100) * 1e36 + 1e38, rng.normal(size=100) * 1e-38, rng.normal(size=100) + 1e5,
            np.full(100, 3e38), np.where(names == "a", 1e30, -1e-30),
        ], axis=1,
    ).astype(np.float32)  # fmt: skip
    _, (ours,), _ = fit(beside({"camera": names}, x=x), chain(STANDARD))
    np.testing.assert_allclose(ours, by_group(x, names, scale=True), atol=2e-6)


def test_what_has_no_groups_is_refused(beside: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    x = made(cameras())[:60]
    own = np.array([str(i) for i in range(60)], object)
    where = r"feature set group_center: \{by: camera\}: group_center: \{by: camera\}: "
    for names, message in (
        (own, "the column 'camera' has 60 values for 60 images, and none of them 10 images or more"),
        (np.full(60, None, object), "the column 'camera' has 0 values for 60 images"),
    ):
        with pytest.raises(CaseError, match=where + message):
            fit(beside({"camera": names}, x=x), chain(CENTER))
    names = np.array([str(i % 4) for i in range(60)], object)
    monkeypatch.setattr(group_steps, "MAX_NUMBERS", 34)
    with pytest.raises(CaseError, match="5 groups of 7 columns are 35 numbers, and at most 34 are stored: put a `pca`"):
        fit(beside({"camera": names}, x=x), chain(CENTER))
    fit(beside({"camera": names}, x=x), chain({"pca": 2}, CENTER))
    monkeypatch.setattr(group_steps, "MAX_GROUPS", 3)
    with pytest.raises(CaseError, match="has 4 values with 10 images or more, and at most 3 groups are taken"):
        fit(beside({"camera": names}, x=x), chain(CENTER))


def test_nan_is_refused(beside: Callable[..., DataFrame]) -> None:
    names = np.array(["a", "b"] * 20, object)
    x = made(cameras())[:40].copy()
    x[3, 1] = np.nan
    with pytest.raises(CaseError, match="its numbers come out as large as nan"):
        fit(beside({"camera": names}, x=x), chain(CENTER))


# -- the lake and new images ---------------------------------------------------------------------------

ROWS = 90
STUDY: dict[str, Any] = {
    "features": [
        {"name": "raw", "descriptor": "a", "steps": [CENTER]},
        {"name": "pca", "descriptor": "a", "steps": [{"pca": 4}, STANDARD, "l2"]},
    ],
    "cluster": {"models": [{"algorithm": "kmeans", "k": 3}], "min_cluster_share": 0.0},
}


def attributes(rows: int, first: int = 0, names: Sequence[str] = ("n", "s", "")) -> list[dict[str, object]]:
    """Camera and hour of images; an empty camera is none."""
    lines = [f"veriwild\\{1 + i % 10}\\{i // 3 + 1:05d}\\{i + 1:06d}.jpg" for i in range(first, first + rows)]
    return [{"path": line, "camera": names[i % len(names)], "hour": str(i % 5)} for i, line in enumerate(lines)]


def descriptor(rows: int = ROWS, seed: int = 3) -> np.ndarray:
    return blobs(rows, 6, seed=seed) + np.array([5.0 * (i % 3) for i in range(rows)], np.float32)[:, None]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "case", ROWS, {"a": descriptor()}, attributes(ROWS))


def more(folder: Path, described: list[dict[str, object]] | None) -> Path:
    """A case of 30 new images behind the others."""
    write_case(folder, 30, {"a": descriptor(30, seed=4)}, described)
    paths = ["paths", *(str(row["path"]) for row in attributes(30, ROWS))]
    (folder / "images_paths.csv").write_text("\n".join(paths) + "\n")
    return folder


@pytest.mark.parametrize("lake_format", ["delta", "parquet"])
def test_the_lake_and_new_images(spark: SparkSession, case: Path, tmp_path: Path, lake_format: str) -> None:
    ctx = run_of(spark, case, tmp_path / "lake", lake_format, **STUDY)
    for name in ("ingest", "features", "cluster"):
        STAGES[name](ctx)
    x, names = descriptor(), np.array([r["camera"] or None for r in attributes(ROWS)], object)
    vectors = rows_of(ctx.lake.read("features", features="raw"))
    np.testing.assert_allclose(vectors, by_group(x, names, scale=False), atol=1e-5)
    assert load_program(ctx.lake, "pca").group_columns == ("camera",)
    models = {r["features"]: r["model_id"] for r in ctx.lake.rows("models", ["features", "model_id"])}
    for features in ("raw", "pca"):
        run_assign(ctx.lake, CaseConfig(path=str(case)), models[features], tmp_path / "same.parquet")
        labels = ctx.lake.read("labels", model_id=models[features]).orderBy("image_id").toPandas()
        assert pq.read_table(tmp_path / "same.parquet")["cluster"].to_pylist() == labels["cluster"].tolist()

    for described, message in (
        (None, r"feature set \w+\) needs the column 'camera' .* has no attributes file: add attributes\.csv"),
        ([{"path": r["path"], "hour": "1"} for r in attributes(30, ROWS)], r"attributes\.csv: has no column 'camera'"),
    ):
        lacking = CaseConfig(path=str(more(tmp_path / "lacking", described)))
        with pytest.raises(CaseError, match=message):
            run_assign(ctx.lake, lacking, models["raw"], tmp_path / "new.parquet")
        with pytest.raises(CaseError, match=message.replace(r"\w+\)", r"\w+ of the lake")):
            run_append(ctx, lacking)
        shutil.rmtree(tmp_path / "lacking")
    assert not ctx.lake.exists("appends") or not ctx.lake.rows("appends")

    # A camera that was not fitted is treated by the numbers of all; the others by their own.
    described = attributes(30, ROWS, names=("s", "new", ""))
    run_append(ctx, CaseConfig(path=str(more(tmp_path / "more", described))))
    new = rows_of(ctx.lake.read("features", features="raw").where(f"image_id >= {ROWS}"))
    y, theirs = descriptor(30, seed=4).astype(np.float64), np.array([r["camera"] for r in described])
    mean = np.where((theirs == "s")[:, None], x[names == "s"].mean(axis=0), x.mean(axis=0))
    np.testing.assert_allclose(new, y - mean, atol=1e-5)
    run_assign(ctx.lake, CaseConfig(path=str(tmp_path / "more")), models["pca"], tmp_path / "new.parquet")
    labels = ctx.lake.read("labels", model_id=models["pca"]).where(f"image_id >= {ROWS}").orderBy("image_id").toPandas()
    assert pq.read_table(tmp_path / "new.parquet")["cluster"].to_pylist() == labels["cluster"].tolist()


def test_a_changed_column_is_another_feature_set(spark: SparkSession, case: Path, tmp_path: Path) -> None:
    def run(by: str, name: str | None = None) -> Any:
        features = {"descriptor": "a", "steps": [{"group_center": {"by": by}}]} | ({"name": name} if name else {})
        ctx = run_of(spark, case, tmp_path / "lake", "parquet", features=[features], cluster=STUDY["cluster"])
        for stage in ("ingest", "features", "cluster"):
            STAGES[stage](ctx)
        return ctx

    ctx = run("camera")
    first = {r["model_id"] for r in ctx.lake.rows("models", ["model_id"])}
    ctx = run("hour")
    sets = {r["features"]: r["definition"] for r in ctx.lake.rows("feature_sets", ["features", "definition"])}
    assert sorted(sets) == ["a-group_center_camera", "a-group_center_hour"]
    assert len({r["model_id"] for r in ctx.lake.rows("models", ["model_id"])} - first) == 1
    run("camera", "own")
    with pytest.raises(LakeError, match="feature set 'own' is in the lake with other steps"):
        run("hour", "own")
    # Other values in a column that nothing was fitted with are taken over; in one that was they are refused.
    rows = [row | {"other": "1"} for row in attributes(ROWS)]
    write = pd.DataFrame(rows).to_csv
    write(case / "attributes.csv", index=False)
    ctx = run("camera", "own")
    assert "other" in ctx.lake.read("images").columns
    pd.DataFrame([row | {"camera": "n"} for row in rows]).to_csv(case / "attributes.csv", index=False)
    with pytest.raises(LakeError, match=r"was fitted with other values of camera, hour than the attributes file gives"):
        run("camera", "own")
    pd.DataFrame(rows).drop(columns="hour").to_csv(case / "attributes.csv", index=False)
    with pytest.raises(LakeError, match="was fitted with other values of"):
        run("camera", "own")


def test_a_column_that_images_lack_is_told_before_spark_and_by_the_stage(
    spark: SparkSession, case: Path, tmp_path: Path
) -> None:
    features = [{"name": "f", "descriptor": "a", "steps": [{"pca": 2}, {"group_center": {"by": "Camera"}}]}]
    raw = {"case": {"path": str(case)}, "lake": {"path": str(tmp_path / "lake")}, "features": features}
    message = (
        r"features\[0\] \(f\): group_center: \{by: Camera\}: the .* has no column 'Camera'; .* are camera, hour: n"
    )
    (problem,) = look(parse_config(raw), ["ingest", "features"]).problems
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(problem)
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", features=features)
    STAGES["ingest"](ctx)
    with pytest.raises(ConfigError, match=message):
        STAGES["features"](ctx)

"""Outliers by their vehicles: scores against their definition, views that are none, and planted ones that are found."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import average_precision_score

from cases import contents, leftovers, run_of, write_case
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError
from motorpool.features.vehicle_steps import Vehicles
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.lake import Lake
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import arrange
from motorpool.outliers import odd_one_out as module
from motorpool.outliers.consensus import WEIGHTS, Weighted, consensus, fill_unknown, flag, weights_from
from motorpool.outliers.local import knn_distance, local_outlier_factor
from motorpool.outliers.odd_one_out import Compared, most_typical, odd_one_out
from motorpool.outliers.stray_groups import STRANGERS, stray_groups
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.outliers import run_outliers
from motorpool.spark import blocks
from motorpool_sample import truth as t
from motorpool_sample.descriptors import DescriptorSource

Names = list[str | None]


@pytest.fixture
def named(spark: SparkSession) -> Callable[[Names], Vehicles]:
    """Vehicles of images that count from 0; None: no vehicle."""

    def make(names: Names) -> Vehicles:
        columns = {"image_id": pa.array(np.arange(len(names))), "vehicle_id": pa.array(names, pa.string())}
        return Vehicles.of(spark.createDataFrame(pa.table(columns)))

    return make


@pytest.fixture
def odd(wide: Callable[..., DataFrame], named: Callable[[Names], Vehicles]) -> Iterator[Callable[..., Compared]]:
    """Rows compared with the others of their vehicle; released when the test ends."""
    held: list[Compared] = []

    def make(x: np.ndarray, names: Names, partitions: int = 2) -> Compared:
        held.append(odd_one_out(wide(partitions, vector=x.astype(np.float32)), named(names)))
        return held[-1]

    yield make
    for compared in held:
        compared.release()


def fetch(df: DataFrame, column: str = "score") -> np.ndarray:
    """float64[n] in the order of ids, which count from 0; NaN for null."""
    table = df.select("image_id", column).toArrow().sort_by("image_id")
    assert table.column("image_id").to_pylist() == list(range(table.num_rows))
    return np.array([np.nan if v is None else v for v in table.column(column).to_pylist()], np.float64)


def garage(seed: int = 0, n_vehicles: int = 40, d: int = 6, offset: float = 0.0) -> tuple[np.ndarray, Names]:
    """Vehicles of 1 to 9 photos with spreads of their own, in any order, and three photos without a vehicle."""
    rng = np.random.default_rng(seed)
    vehicle = np.repeat(np.arange(n_vehicles), rng.integers(1, 10, n_vehicles))
    spread = rng.uniform(0.5, 2, (n_vehicles, 1)) * np.geomspace(2, 0.05, d)
    x = rng.normal(size=(n_vehicles, d))[vehicle] * 4 + rng.normal(size=(len(vehicle), d)) * spread[vehicle]
    x = np.concatenate([x, rng.normal(size=(3, d))]) + offset
    names: Names = [*(f"car {v}" for v in vehicle), None, None, None]
    order = rng.permutation(len(x))
    return x[order].astype(np.float32), [names[i] for i in order]


def others_of(names: Names) -> list[np.ndarray]:
    """For each photo the rows of its vehicle's other photos."""
    held = np.array([name or f"none {i}" for i, name in enumerate(names)])
    return [np.flatnonzero((held == held[i]) & (np.arange(len(held)) != i)) for i in range(len(held))]


def by_definition(x: np.ndarray, names: Names) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the covariance, photo by photo and vehicle by vehicle."""
    rows, others = x.astype(np.float64), others_of(names)
    m = np.array([len(o) + 1 for o in others])
    several = np.flatnonzero(m > 1)
    gaps = np.zeros(rows.shape)
    for i in several:
        gaps[i] = np.sqrt((m[i] - 1) / m[i]) * (rows[i] - rows[others[i]].mean(axis=0))
    share = (m - 1) / m

    def inverse(s: np.ndarray) -> np.ndarray:
        return np.linalg.inv(s + module.RIDGE * np.trace(s) / len(s) * np.eye(len(s)))

    def pooled(photos: np.ndarray) -> np.ndarray:
        return (gaps[photos].T * share[photos]) @ gaps[photos] / share[photos].sum()

    first = pooled(several)
    square = np.einsum("ij,jk,ik->i", gaps, inverse(first), gaps)
    s = pooled(several[square[several] <= 2 * np.trace(inverse(first) @ first)])
    usual = np.trace(inverse(s) @ s)
    score = np.full(len(rows), np.nan)
    for i in several:
        rest = rows[others[i]] - rows[others[i]].mean(axis=0)
        within = np.einsum("ij,jk,ik->", rest, inverse(s), rest)
        expected = (within + module.PRIOR_PHOTOS * usual) / (m[i] - 2 + module.PRIOR_PHOTOS)
        score[i] = np.sqrt(gaps[i] @ inverse(s) @ gaps[i] / expected)
    return score, s


# -- the odd one out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "partitions"), [(0.0, 1), (300.0, 5)])
def test_the_score_is_its_definition(odd: Callable[..., Compared], offset: float, partitions: int) -> None:
    x, names = garage(offset=offset)
    compared = odd(x, names, partitions)
    assert compared.df.dtypes == [
        ("image_id", "bigint"), ("vehicle_id", "string"), ("n_photos", "bigint"), ("score", "double"),
    ]  # fmt: skip
    expected, s = by_definition(x, names)
    assert np.allclose(fetch(compared.df), expected, rtol=1e-4, equal_nan=True)
    assert np.isclose(compared.apart, np.sqrt(2 * np.trace(s)), rtol=1e-5)
    # Photos without a vehicle, and those alone of theirs.
    alone = [not others for others in map(len, others_of(names))]
    assert 3 < sum(alone) < 20
    assert np.array_equal(np.isnan(expected), alone)


def test_without_ridge_and_prior_it_is_the_mahalanobis_distance_of_discriminant_analysis(
    odd: Callable[..., Compared], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RIDGE", 0.0), ("PRIOR_PHOTOS", 1e12), ("_CUT", np.inf)):
        monkeypatch.setattr(module, name, value)
    x, names = garage(seed=1)
    photos = np.array([i for i, o in enumerate(others_of(names)) if len(o)])
    kept = np.array([names[i] for i in photos])
    model = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(x[photos].astype(np.float64), kept)
    # It divides by the number of rows, not by the degrees of freedom.
    s = model.covariance_ * len(photos) / (len(photos) - len(model.classes_))
    found = fetch(odd(x, names).df)
    for i in photos:
        others = others_of(names)[i]
        far = mahalanobis(x[i], x[others].mean(axis=0, dtype=np.float64), np.linalg.inv(s))
        assert np.isclose(found[i], far * np.sqrt(len(others) / (len(others) + 1) / x.shape[1]), rtol=1e-3)


def test_a_common_view_is_no_outlier_and_what_is_in_no_view_is(odd: Callable[..., Compared]) -> None:
    rng = np.random.default_rng(2)
    vehicle = np.repeat(np.arange(60), 6)
    rear = (np.arange(360) % 6 < 3) & (vehicle % 4 > 0)
    # Every eighth vehicle has one rear photo and five of the front.
    rear |= (np.arange(360) % 6 == 0) & (vehicle % 8 == 0)
    x = rng.normal(size=(60, 20))[vehicle] * 5 + rng.normal(size=(360, 20)) * 0.3
    x[:, 0] += np.where(rear, 8.0, 0.0)
    strange = np.array([25, 100, 215])
    step = rng.normal(size=(3, 20))
    step[:, 0] = 0
    x[strange] += step / np.linalg.norm(step, axis=1)[:, None] * 5
    found = fetch(odd(x, [f"{v:03d}" for v in vehicle]).df)
    assert set(np.argsort(-found)[:3]) == set(strange)
    # Plain distance has it the other way round: the only rear photo of a vehicle is farther away than they are.
    lone = np.flatnonzero((np.arange(360) % 6 == 0) & (vehicle % 8 == 0) & ~np.isin(vehicle, vehicle[strange]))
    plain = [np.linalg.norm(x[i] - x[o].mean(axis=0)) for i, o in enumerate(others_of([str(v) for v in vehicle]))]
    assert np.min(np.array(plain)[lone]) > np.max(np.array(plain)[strange])
    assert found[lone].max() < 0.75 * found[strange].min()


def test_two_photos_share_a_score_and_alike_ones_have_none(odd: Callable[..., Compared]) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 4))
    x[:, 1] = 7.1
    found = fetch(odd(x, [f"car {i // 2}" for i in range(40)]).df)
    assert np.allclose(found[::2], found[1::2], rtol=1e-5)
    assert found.min() >= 0
    assert found.max() > 1
    # 0.1 has no end in binary: the mean of seven equal numbers is not that number.
    alike = odd(np.repeat(rng.normal(size=(5, 4)) + 0.1, 7, axis=0), [f"car {i // 7}" for i in range(35)])
    assert np.array_equal(fetch(alike.df), np.zeros(35))
    assert alike.apart == 0
    one = fetch(odd(x[:9], ["only"] * 9).df)
    assert np.isfinite(one).all()
    assert one.std() > 0
    assert np.isnan(fetch(odd(x[:1], ["alone"]).df)).all()


def test_a_vehicle_of_many_batches_is_summed_up(odd: Callable[..., Compared], spark: SparkSession) -> None:
    x, names = garage(seed=4, n_vehicles=12)
    names = ["large" if i % 3 else name for i, name in enumerate(names)]
    expected, _ = by_definition(x, names)
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, "7")
    try:
        assert np.allclose(fetch(odd(x, names).df), expected, rtol=1e-4, equal_nan=True)
    finally:
        spark.conf.set(key, before)


def test_typical_photos_are_those_of_low_scores(odd: Callable[..., Compared]) -> None:
    x, names = garage(seed=5)
    compared = odd(x, names)
    score = fetch(compared.df)
    found = {r["vehicle_id"]: r["typical"] for r in most_typical(compared, 3).collect()}
    held = {name: np.flatnonzero(np.array(names, object) == name) for name in names if name}
    assert found == {v: ids[np.argsort(score[ids])][:3].tolist() for v, ids in held.items() if len(ids) > 1}


# -- stray groups ------------------------------------------------------------------------------------


@pytest.fixture
def stray(
    spark: SparkSession, in_process: Callable[..., DataFrame], odd: Callable[..., Compared]
) -> Callable[[np.ndarray, Names, int], tuple[DataFrame, Compared]]:
    """Stray scores of rows among their k nearest."""

    def make(x: np.ndarray, names: Names, k: int) -> tuple[DataFrame, Compared]:
        compared = odd(x, names)
        arranged = arrange(in_process(x), "euclidean", 3)
        found = stray_groups(arranged, search(arranged, Wanted(k=k)), k, compared)
        return spark.createDataFrame(found.toArrow()), compared

    return make


@pytest.mark.parametrize("k", [3, 40, 300])
def test_the_stray_score_is_its_definition(stray: Callable[..., tuple[DataFrame, Compared]], k: int) -> None:
    x, names = garage(seed=6)
    df, compared = stray(x, names, k)
    score = fetch(compared.df)
    distance = cdist(x.astype(np.float64), x.astype(np.float64))
    np.fill_diagonal(distance, np.inf)
    rows = {r["image_id"]: r for r in df.collect()}
    assert sorted(rows) == list(range(len(x)))
    n_empty = 0
    for i in range(len(x)):
        near = np.argsort(distance[i], kind="stable")[: min(k, len(x) - 1)]
        strangers = [j for j in near if names[j] != names[i] and np.isfinite(score[j])][:STRANGERS]
        if np.isnan(score[i]):
            assert rows[i]["score"] is None
            continue
        assert rows[i]["neighbours"] == strangers
        if not strangers:
            n_empty += 1
            assert (rows[i]["score"], rows[i]["distance"]) == (0.0, None)
            continue
        far = distance[i, strangers[-1]]
        expected = score[i] * score[strangers].mean() / (1 + (far / compared.apart) ** 2)
        assert np.allclose([rows[i]["score"], rows[i]["distance"]], [expected, far], rtol=1e-5)
    assert (n_empty > 0) == (k == 3)


def test_copies_of_a_frame_under_many_vehicles_come_first(stray: Callable[..., tuple[DataFrame, Compared]]) -> None:
    rng = np.random.default_rng(7)
    vehicle = np.repeat(np.arange(50), 6)
    # Vehicles of one type lie in each other's midst: ordinary photos have strangers as neighbours.
    x = rng.normal(size=(3, 8))[vehicle % 3] * 6 + rng.normal(size=(50, 8))[vehicle] * 0.7
    x += rng.normal(size=(300, 8)) * 0.5
    copies, lone = np.arange(0, 48, 6), 150
    x[copies] = 4.0
    x[lone] = -12.0
    df, compared = stray(x, [f"{v:03d}" for v in vehicle], 20)
    found = fetch(df)
    assert set(np.argsort(-found)[: len(copies)]) == set(copies)
    assert np.isfinite(found).all()
    # A lone photo is odd, not one of a group.
    assert fetch(compared.df).argmax() == lone
    assert (found > found[lone]).sum() >= len(copies)


def test_without_any_pair_of_photos_nothing_is_said(stray: Callable[..., tuple[DataFrame, Compared]]) -> None:
    x, _ = garage(seed=8, n_vehicles=5)
    df, compared = stray(x, [f"car {i}" for i in range(len(x))], 4)
    assert np.isnan(fetch(df)).all()
    assert np.isnan(fetch(compared.df)).all()
    alike, _ = stray(np.repeat(x[:4], 3, axis=0), [f"car {i // 3}" for i in range(12)], 4)
    assert np.array_equal(fetch(alike), np.zeros(12))


# -- what is not known -------------------------------------------------------------------------------


def test_unknown_scores_take_the_middle_and_are_not_flagged(spark: SparkSession) -> None:
    known = np.arange(20.0)
    rows = [("f", "m", i, float(v)) for i, v in enumerate(known)] + [("f", "m", 20 + i, None) for i in range(80)]
    rows += [("f", "nothing", i, None) for i in range(4)]
    scores = spark.createDataFrame(rows, "features STRING, method STRING, image_id BIGINT, score DOUBLE")
    found = fill_unknown(flag(scores.repartition(3), 0.1)).where("method = 'm'")
    # A tenth of the 20 that are known: those with a score of 9 would begin within a tenth of all.
    assert {r["image_id"] for r in found.where("is_outlier").collect()} == {18, 19}
    filled = fetch(found)
    assert np.array_equal(filled[:20], known)
    assert set(filled[20:]) == {9.0}
    nothing = fill_unknown(flag(scores, 0.1)).where("method = 'nothing'")
    assert np.array_equal(fetch(nothing), np.zeros(4))
    assert nothing.where("is_outlier").isEmpty()


# -- what they find ----------------------------------------------------------------------------------


Case = tuple[dict[str, np.ndarray], Names, np.ndarray]


def precision(
    case: Case, spark: SparkSession, in_process: Callable[..., DataFrame], vehicles: Vehicles
) -> dict[str, Any]:
    """Average precision of each method on each descriptor, and of the consensus of plain ones, all and all weighted."""
    descriptors, _, strange = case
    found: dict[str, Any] = {}
    kept: dict[tuple[str, str], np.ndarray] = {}
    for name, raw in descriptors.items():
        x = PCA(100, svd_solver="covariance_eigh").fit_transform(raw.astype(np.float64)).astype(np.float32)
        block_df = in_process(x)
        columns = {"image_id": pa.array(np.arange(len(x))), "vector": blocks.to_list_array(x)}
        compared = odd_one_out(spark.createDataFrame(pa.table(columns)), vehicles)
        arranged = arrange(block_df, "euclidean", 1)
        state = search(arranged, Wanted(k=50))
        kept[name, "knn_distance"] = fetch(knn_distance(arranged, state, 50))
        kept[name, "lof"] = fetch(local_outlier_factor(arranged, state, 50))
        kept[name, "odd_one_out"] = fetch(fill_unknown(compared.df))
        strays = stray_groups(arranged, state, 50, compared)
        kept[name, "stray_groups"] = fetch(fill_unknown(spark.createDataFrame(strays.toArrow())))
        arranged.release()
        state.unpersist()
        compared.release()
    for (name, method), score in kept.items():
        found[f"{method} on {name}"] = average_precision_score(strange, score)
    for title, methods in (("plain", ("knn_distance", "lof")), ("aware", ("odd_one_out", "stray_groups"))):
        methods = (*methods, *(("knn_distance", "lof") if title == "aware" else ()))
        tables = [
            pa.table({"features": [n] * len(s), "method": [m] * len(s), "image_id": np.arange(len(s)), "score": s})
            for (n, m), s in kept.items()
            if m in methods
        ]
        scores = spark.createDataFrame(pa.concat_tables(tables))
        found[title] = average_precision_score(strange, fetch(consensus(scores)))
    weighted = Weighted.of(scores, ("odd_one_out", "stray_groups"), vehicles.photos_of_repeated(), 0.02)
    assert weighted is not None
    found["weighted"] = average_precision_score(strange, fetch(weighted.df))
    weighted.release()
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_planted_outliers_are_found(
    spark: SparkSession, in_process: Callable[..., DataFrame], named: Callable[[Names], Vehicles], seed: int
) -> None:
    truth = t.draw_truth(2000, seed)
    source = DescriptorSource(truth)
    descriptors = {n: np.concatenate(list(source.blocks(n, 1))) for n in ("vdc_type", "osnet")}
    names: Names = [truth.vehicle_id(i) for i in range(truth.images)]
    found = precision((descriptors, names, truth.outlier > 0), spark, in_process, named(names))
    least = {
        "odd_one_out on vdc_type": 0.80, "odd_one_out on osnet": 0.97,
        "stray_groups on vdc_type": 0.92, "stray_groups on osnet": 0.97, "aware": 0.97,
        "weighted": 0.99,
    }  # fmt: skip
    assert all(found[name] > value for name, value in least.items()), found
    assert found["aware"] > found["plain"]


def test_real_outliers_are_found(
    spark: SparkSession,
    in_process: Callable[..., DataFrame],
    named: Callable[[Names], Vehicles],
    case_dir: Path,
    case_vectors: Callable[[str], np.ndarray],
) -> None:
    lines = [line.split(",") for line in (case_dir / "attributes.csv").read_text("utf-8-sig").splitlines()[1:]]
    names: Names = [line[1] for line in lines]
    strange = np.array([line[3] != "" for line in lines])
    descriptors = {n: case_vectors(n) for n in ("vdc_type", "osnet")}
    found = precision((descriptors, names, strange), spark, in_process, named(names))
    least = {
        "odd_one_out on vdc_type": 0.92, "odd_one_out on osnet": 0.6,
        "stray_groups on vdc_type": 0.95, "stray_groups on osnet": 0.7, "aware": 0.8,
        "weighted": 0.97,
    }  # fmt: skip
    assert all(found[name] > value for name, value in least.items()), found
    assert found["aware"] > found["plain"] + 0.1


# -- the stage ---------------------------------------------------------------------------------------


ROWS, ODD, COPIES = 180, 40, (3, 33, 63, 93, 123, 153, 171)


def vectors() -> np.ndarray:
    """Sixty vehicles of three photos; one photo is odd, and seven of different vehicles are copies of one frame."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(60, 6))[np.arange(ROWS) // 3] * 4 + rng.normal(size=(ROWS, 6)) * 0.4
    x[ODD] -= 30
    x[list(COPIES)] = 3.5
    return x.astype(np.float32)


STUDY: dict[str, Any] = {
    "features": [
        {"name": "t", "descriptor": "vdc_type", "steps": [{"pca": 4}]},
        {"name": "means", "descriptor": "vdc_type", "steps": ["vehicle_mean"]},
    ],
    "outliers": {
        "methods": ["isolation_forest", "knn_distance", "lof", "pca_error", "odd_one_out", "stray_groups"],
        "k": 12,
        "share": 0.06,
        "features": ["t", "means"],
    },
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("garage") / "case", ROWS, {"vdc_type": vectors()})


@pytest.fixture(scope="module")
def unscored(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with feature sets and no scores yet; tests work on copies."""
    ctx = run_of(spark, case, tmp_path_factory.mktemp("unscored") / "lake", "parquet", **STUDY)
    run_ingest(ctx)
    run_features(ctx)
    return Path(str(ctx.config.lake.path))


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, unscored: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    lake = shutil.copytree(unscored, tmp_path_factory.mktemp("scored") / "lake")
    ctx = run_of(spark, case, lake, "parquet", **STUDY)
    run_outliers(ctx)
    return ctx


def test_every_flagged_image_has_its_reason(done: Context) -> None:
    flagged = done.lake.read("outliers").where("is_outlier").select("features", "method", "image_id", "score")
    reasons = done.lake.read("outlier_reasons")
    keys = ["features", "method", "image_id"]
    assert {tuple(r) for r in reasons.select(*keys, "value").collect()} == {tuple(r) for r in flagged.collect()}
    assert reasons.count() == flagged.count()
    assert reasons.where("reason IS NULL OR reason = '' OR reason LIKE '%null%' OR vehicle_id IS NULL").isEmpty()
    medians = done.lake.read("outliers").groupBy("features", "method").agg({"score": "median"}).collect()
    usual = {(r[0], r[1]): r[2] for r in medians}
    for row in reasons.select("features", "method", "usual").distinct().collect():
        assert np.isclose(row["usual"], usual[row["features"], row["method"]], rtol=0.2), row


def test_reasons_name_photos_to_compare(done: Context) -> None:
    rows = {(r["method"], r["image_id"]): r for r in done.lake.read("outlier_reasons", features="t").collect()}
    odd = rows["odd_one_out", ODD]
    assert odd["vehicle_id"] == "00014"
    assert sorted(odd["neighbours"]) == [39, 41]
    assert "the 2 other photos" in odd["reason"]
    assert "times the usual" in odd["reason"]
    for copy in COPIES:
        stray = rows["stray_groups", copy]
        assert len(stray["neighbours"]) == 5
        assert set(stray["neighbours"]) < set(COPIES) - {copy}
        assert stray["reason"].startswith("Probably one kind of bad frame: it looks like 5 photos of")
    for method in ("knn_distance", "lof"):
        assert len(rows[method, ODD]["neighbours"]) == 5
        assert ODD not in rows[method, ODD]["neighbours"]
    assert rows["isolation_forest", ODD]["neighbours"] is None
    agreed = {r["image_id"]: r for r in done.lake.read("outlier_reasons", features="consensus").collect()}
    assert agreed[ODD]["reason"].startswith("Flagged by ")
    assert "odd_one_out on t" in agreed[ODD]["reason"]
    # means has but the forest, knn_distance and lof, and pca_error none: what is left out does not count.
    assert " of 9 rankings" in agreed[ODD]["reason"]


def test_the_vehicles_lead_the_consensus(done: Context) -> None:
    table = done.lake.read("outliers")
    single = table.where("features <> 'consensus'")
    strange = np.isin(np.arange(ROWS), (ODD, *COPIES))
    found = average_precision_score(strange, fetch(table.where("features = 'consensus'")))
    assert found > 0.9
    # The seven rankings that know no vehicles see next to nothing, and outvote the two that do.
    assert average_precision_score(strange, fetch(consensus(single))) < 0.4
    row = done.lake.read("outlier_methods", features="consensus").first()
    assert row is not None
    assert row["params"]["leading"] == "odd_one_out, stray_groups"
    weights = weights_from(row["params"][WEIGHTS])
    assert set(weights) == {(r["features"], r["method"]) for r in single.collect()}
    assert weights["t", "stray_groups"] > 0.5


def test_few_outliers_of_known_vehicles_let_all_methods_count_equally(
    done: Context, spark: SparkSession, case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lake = shutil.copytree(str(done.config.lake.path), tmp_path / "lake")
    study = STUDY | {"outliers": STUDY["outliers"] | {"share": 0.02}}
    ctx = run_of(spark, case, lake, "parquet", **study)
    monkeypatch.setattr(logging.getLogger("motorpool"), "propagate", True)
    with caplog.at_level("WARNING", logger="motorpool"):
        run_outliers(ctx)
    assert "all methods count equally in the consensus: odd_one_out and stray_groups flag fewer than 5" in caplog.text
    table = ctx.lake.read("outliers")
    expected = fetch(consensus(table.where("features <> 'consensus'")))
    assert np.array_equal(fetch(table.where("features = 'consensus'")), expected)
    before = contents(ctx.lake)
    run_outliers(ctx)
    assert contents(ctx.lake) == before


def test_a_consensus_of_a_time_without_weights_is_made_again(
    done: Context, spark: SparkSession, case: Path, tmp_path: Path
) -> None:
    ctx = run_of(spark, case, shutil.copytree(str(done.config.lake.path), tmp_path / "lake"), "parquet", **STUDY)
    rows = ctx.lake.rows("outlier_methods", features=["consensus"])
    for row in rows:
        row["params"] = {key: row["params"][key] for key in ("share", "rankings")}
    ctx.lake.replace_rows("outlier_methods", rows, {"features": ["consensus"]})
    single = ctx.lake.read("outliers").where("features <> 'consensus'")
    old = flag(consensus(single), STUDY["outliers"]["share"])
    named = old.selectExpr("'consensus' AS features", "'consensus' AS method", *old.columns)
    ctx.lake.replace("outliers", named, {"features": ["consensus"]})
    run_outliers(ctx)
    assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)


def test_merged_vehicles_are_left_out(done: Context) -> None:
    methods = {(r["features"], r["method"]) for r in done.lake.read("outlier_methods").collect()}
    assert {m for f, m in methods if f == "t"} == set(STUDY["outliers"]["methods"])
    assert {m for f, m in methods if f == "means"} == {"isolation_forest", "knn_distance", "lof"}


def test_again_nothing_is_made_twice_but_reasons_that_are_missing(
    done: Context, spark: SparkSession, case: Path, tmp_path: Path
) -> None:
    before = contents(done.lake)
    run_outliers(done)
    assert contents(done.lake) == before
    # A lake of a time before there were reasons.
    lake = shutil.copytree(str(done.config.lake.path), tmp_path / "lake")
    shutil.rmtree(lake / "outlier_reasons")
    ctx = run_of(spark, case, lake, "parquet", **STUDY)
    run_outliers(ctx)
    assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)
    assert not leftovers(lake)


class _StoppedError(Exception):
    """What stands for a kill between two writes."""


@pytest.mark.slow
def test_a_stop_between_writes_leaves_what_can_be_gone_on_from(
    done: Context,
    spark: SparkSession,
    case: Path,
    unscored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx = run_of(spark, case, shutil.copytree(unscored, tmp_path / "lake"), "parquet", **STUDY)
    write = Lake._write

    at = "outlier_reasons"

    def stopped(lake: Lake, *args: Any) -> None:
        if args[0].name == at:
            raise _StoppedError
        write(lake, *args)

    monkeypatch.setattr(Lake, "_write", stopped)
    with pytest.raises(_StoppedError):
        run_outliers(ctx)
    at = "outlier_methods"
    with pytest.raises(_StoppedError):
        run_outliers(ctx)
    monkeypatch.setattr(Lake, "_write", write)
    run_outliers(ctx)
    assert contents(ctx.lake, clock=False) == contents(done.lake, clock=False)


@pytest.mark.parametrize(
    ("vehicle", "found"), [("nothing", "none of the 180 images"), (r"(\d+)\.jpg$", "single photo")]
)
def test_methods_that_need_vehicles_are_left_out_where_there_are_none(
    spark: SparkSession, case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    vehicle: str, found: str,
) -> None:  # fmt: skip
    study = STUDY | {"features": STUDY["features"][:1], "outliers": {"methods": ["isolation_forest", "stray_groups"]}}
    pattern = vehicle if "(" in vehicle else f"({vehicle})"
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", case_options={"vehicle_pattern": pattern}, **study)
    for stage in (run_ingest, run_features):
        stage(ctx)
    monkeypatch.setattr(logging.getLogger("motorpool"), "propagate", True)
    with caplog.at_level("WARNING", logger="motorpool"):
        run_outliers(ctx)
    expected = rf"outliers: stray_groups left out: outliers.methods: stray_groups .*{found}.*case.vehicle_pattern"
    assert re.search(expected, caplog.text)
    rows = ctx.lake.read("outlier_methods").select("method").collect()
    assert {r["method"] for r in rows} == {"isolation_forest", "consensus"}


def test_a_case_that_names_no_vehicles_is_refused_at_once() -> None:
    data = {
        "case": {"path": "x", "vehicle_pattern": None},
        "lake": {"path": "y"},
        "outliers": {"methods": ["odd_one_out"]},
    }
    with pytest.raises(ConfigError, match=r"outliers.methods: odd_one_out needs .* case.vehicle_column"):
        parse_config(data)
    parse_config(data | {"outliers": {"methods": ["lof"]}})
    parse_config({"case": {"path": "x", "vehicle_column": "track"}} | {k: data[k] for k in ("lake", "outliers")})
    # Methods that need vehicles are for those who ask for them.
    assert not {"odd_one_out", "stray_groups"} & set(parse_config(data | {"outliers": {}}).outliers.methods)  # type: ignore[union-attr]

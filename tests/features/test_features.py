"""Every step and chains of them against scikit-learn in float64, on made data and on the real descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler

from motorpool.errors import CaseError
from motorpool.features import fit as fit_module
from motorpool.features.fit import Fitted, Fitter, transform
from motorpool.features.program import Op, Program
from motorpool.features.spec import FeatureSet, Part, Step, parse_step
from motorpool.lake import Lake

D = 24


def steps(text: str) -> tuple[Step, ...]:
    """``"standard > pca: 8"`` as a chain."""
    result = []
    for word in filter(None, text.split(" > ")):
        kind, _, value = word.partition(": ")
        number = float(value) if "." in value else int(value) if value else None
        result.append(parse_step(kind if number is None else {kind: number}))
    return tuple(result)


def one(descriptor: str, text: str) -> FeatureSet:
    return FeatureSet(f"{descriptor} > {text}", (Part(descriptor),), steps(text))


# -- the truth ---------------------------------------------------------------------------------------


def reference(chain: Sequence[Step], ops: Sequence[Op], x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The chain by scikit-learn in float64, and the last projection's explained_variance_ratio_.

    Components are defined up to sign, and later steps (min-max) see it: each takes the sign of ours.
    """
    x, ratio = x.astype(np.float64), None
    for step, op in zip(chain, ops, strict=True):
        if step.kind in ("pca", "svd"):
            model = _projection(step, x)
            ours = op.fields["components"]
            assert ours.shape == model.components_.T.shape
            model.components_ *= np.sign((model.components_.T * ours).sum(axis=0))[:, None]
            x, ratio = model.transform(x), model.explained_variance_ratio_
        elif step.kind == "clip":
            x = np.clip(x, *np.quantile(x, step.param, axis=0))
        else:
            percent = tuple(100 * q for q in step.param) if isinstance(step.param, tuple) else (25, 75)
            scaler = {
                "standard": StandardScaler(),
                "minmax": MinMaxScaler(),
                "robust": RobustScaler(quantile_range=percent),
                "l2": Normalizer(),
            }[step.kind]
            x = scaler.fit_transform(x)
    return x, ratio


def _projection(step: Step, x: np.ndarray) -> Any:
    if step.kind == "pca":
        return PCA(step.param, svd_solver="covariance_eigh").fit(x)
    k = step.param
    if isinstance(k, float):
        # TruncatedSVD knows no share, so take PCA's rule: the fewest components that exceed it.
        every = TruncatedSVD(min(x.shape) - 1, algorithm="arpack", random_state=0).fit(x)
        k = int((np.cumsum(every.explained_variance_ratio_) <= k).sum()) + 1
    return TruncatedSVD(k, algorithm="arpack", random_state=0).fit(x)


def check(item: Fitted, raw: np.ndarray, tolerance: float) -> None:
    """Fitted set against the reference; ``tolerance`` is a share of the widest output column's spread."""
    chain = item.spec.steps
    ours = item.program.apply([raw])
    truth, ratio = reference(chain, item.program.ops, raw)
    assert ours.dtype == np.float32
    assert ours.shape == truth.shape == (len(raw), item.n_features)
    assert np.abs(ours - truth).max() <= tolerance * truth.std(axis=0).max()
    if ratio is None:
        assert item.spectrum is None
    else:
        assert item.spectrum is not None
        assert item.spectrum.kept == len(ratio)
        assert np.abs(item.spectrum.curve[: len(ratio)] - ratio).max() <= 1e-4
        assert abs(item.spectrum.explained - ratio.sum()) <= 1e-4


# -- made data ---------------------------------------------------------------------------------------


def made(n: int = 400, offset: float = 0.0, seed: int = 11) -> np.ndarray:
    """float32[n, D]: a spectrum that falls by 30 % a component, heavy tails, two constant columns."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(D, D)))[0] * (0.7 ** np.arange(D))[:, None]
    x = rng.standard_t(5, size=(n, D)) @ mix + rng.normal(size=D) + offset
    x[:, 3] = 0.0
    x[:, 17] = 0.1 + offset
    return x.astype(np.float32)


CHAINS = {
    "plain": [
        "",
        "standard",
        "minmax",
        "robust",
        "clip",
        "l2",
        "pca: 8",
        "pca: 0.9",
        "pca: 22",
        "svd: 8",
        "svd: 0.9",
        "standard > pca: 8 > minmax",
        "pca: 8 > standard",
        "pca: 0.99 > standard",
        "minmax > pca: 10 > l2 > pca: 4",
        "robust > pca: 8",
        "l2 > pca: 8",
        "l2 > svd: 5 > standard",
        "clip > standard > pca: 6",
        "pca: 12 > robust > standard",
        "svd: 6 > minmax",
        "standard > l2 > minmax",
        "pca: 10 > pca: 3",
        "standard > minmax > standard",
    ],
    # l2 and svd are not here: with such a mean they look at the mean alone, in float64 too.
    "far": [
        "standard",
        "minmax",
        "robust",
        "pca: 8",
        "pca: 0.9",
        "minmax > pca: 10 > l2 > pca: 4",
        "standard > pca: 8",
        "pca: 8 > standard",
        "robust > pca: 8",
    ],
    "copies": ["standard", "minmax > pca: 8", "pca: 8 > standard", "svd: 8", "minmax > pca: 0.9"],
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    few = made(25, seed=4)
    return {"plain": made(), "far": made(offset=1e4), "copies": np.repeat(few, 16, axis=0)}


@pytest.fixture(scope="module")
def fitted(
    spark: SparkSession, wide: Callable[..., DataFrame], arrays: dict[str, np.ndarray]
) -> Iterator[tuple[Fitter, dict[str, Fitted]]]:
    """All chains over all made descriptors, fitted in one go as a study would."""
    sets = [one(name, text) for name, texts in CHAINS.items() for text in texts]
    # With Spark's own choice of which rows are summed up together. It decides the last digits, which `standard`
    # magnifies behind `pca: 12`, whose last component is 50 times narrower than its first.
    spark.conf.set("spark.sql.adaptive.enabled", "true")
    try:
        with Fitter(wide(3, **arrays), sets, seed=1) as fitter:
            yield fitter, {item.spec.name: item for item in fitter.fit()}
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", "false")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in CHAINS.items() for text in texts], ids=str)
def test_chains_equal_scikit_learn(
    fitted: tuple[Fitter, dict[str, Fitted]], arrays: dict[str, np.ndarray], name: str, text: str
) -> None:
    check(fitted[1][f"{name} > {text}"], arrays[name], 1e-4)


# -- joined sets -------------------------------------------------------------------------------------

JOINS = [
    # parts as (descriptor, steps, weight), then the common steps
    ([("a", "", 1.0), ("b", "", 1.0)], "pca: 6"),
    ([("a", "standard", 1.0), ("b", "minmax", 2.5)], "standard > pca: 6"),
    ([("b", "standard > pca: 4", 0.3333333), ("a", "pca: 5 > standard", 1.0)], "svd: 5"),
    ([("b", "standard > pca: 4", 0.333333), ("a", "pca: 5", 10.0)], "pca: 0.95"),
    ([("a", "minmax", 3.0), ("b", "standard", 0.5)], "minmax"),
    ([("a", "minmax", 3.000004), ("b", "standard", 0.5)], "minmax"),
]


def joined(parts: list[tuple[str, str, float]], common: str) -> FeatureSet:
    name = f"{parts} > {common}"
    return FeatureSet(name, tuple(Part(d, steps(t), w) for d, t, w in parts), steps(common))


@pytest.fixture(scope="module")
def pair() -> dict[str, np.ndarray]:
    return {"a": made(300, 5.0), "b": made(300, -2.0, seed=5)[:, :10].copy()}


def joined_reference(item: Fitted, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    done = []
    for part, ours in zip(item.spec.parts, item.program.parts, strict=True):
        done.append(reference(part.steps, ours.ops, arrays[part.descriptor])[0] * part.weight)
    return reference(item.spec.steps, item.program.ops, np.hstack(done))


def test_joined_sets_equal_scikit_learn_on_stacked_parts_and_take_one_pass(
    wide: Callable[..., DataFrame], collect: Callable[[DataFrame], np.ndarray], pair: dict[str, np.ndarray]
) -> None:
    sets = [joined(parts, common) for parts, common in JOINS]
    with Fitter(wide(3, **pair), sets, seed=1) as fitter:
        items = fitter.fit()
        assert fitter.n_passes == 1
        for item in items:
            truth, ratio = joined_reference(item, pair)
            ours = item.program.apply([pair[d] for d in item.spec.descriptors])
            assert np.abs(ours - truth).max() <= 1e-4 * truth.std(axis=0).max(), item.spec.name
            if ratio is not None:
                assert item.spectrum is not None
                assert np.abs(item.spectrum.curve[: len(ratio)] - ratio).max() <= 1e-4
        # Weights that differ in the seventh digit are not taken for one another.
        scales = [item.program.ops[0].fields["scale"][0] for item in items[4:]]
        assert scales[0] / scales[1] == pytest.approx(3.000004 / 3, rel=1e-9)
        assert np.array_equal(collect(fitter.transform(items[2])), items[2].program.apply([pair["b"], pair["a"]]))


def test_joined_sets_of_parts_without_known_moments(
    wide: Callable[..., DataFrame], pair: dict[str, np.ndarray]
) -> None:
    spec = joined([("a", "l2", 4.0), ("b", "", 0.25)], "pca: 5")
    with Fitter(wide(2, **pair), [spec], seed=1) as fitter:
        (item,) = fitter.fit()
    truth, _ = joined_reference(item, pair)
    assert np.abs(item.program.apply([pair["a"], pair["b"]]) - truth).max() <= 1e-4 * truth.std(axis=0).max()
    assert fitter.n_passes == 1


# -- passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "passes"),
    [
        (["standard > pca: 3 > standard", "minmax > svd: 4", "pca: 5 > svd: 2 > pca: 1", "minmax", "pca: 0.5"], 1),
        (["", "l2"], 0),
        # A sample of the raw columns, shared by both.
        (["robust", "robust > l2"], 1),
        # Moments of the raw columns, then the range of the projected ones, shared by both.
        (["pca: 3 > minmax", "pca: 3 > minmax > standard"], 2),
        # One pass behind l2, whatever follows it.
        (["l2 > pca: 3", "l2 > pca: 4 > standard", "l2 > minmax"], 1),
    ],
    ids=str,
)
def test_passes(wide_in_process: Callable[..., DataFrame], texts: list[str], passes: int) -> None:
    with Fitter(wide_in_process(1, a=made(60)), [one("a", text) for text in texts], seed=1) as fitter:
        fitter.fit()
        assert fitter.n_passes == passes


# -- applying ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["minmax > pca: 10 > l2 > pca: 4", "robust > pca: 8", "clip > standard > pca: 6"])
def test_transform_on_spark_equals_the_program(
    fitted: tuple[Fitter, dict[str, Fitted]],
    arrays: dict[str, np.ndarray],
    collect: Callable[[DataFrame], np.ndarray],
    text: str,
) -> None:
    item = fitted[1][f"plain > {text}"]
    expected = item.program.apply([arrays["plain"]])
    # BLAS sums a small block in another order than the whole matrix.
    assert np.allclose(collect(fitted[0].transform(item)), expected, atol=1e-5)


def same(left: Program, right: Program, raw: list[np.ndarray]) -> bool:
    return left.descriptors == right.descriptors and np.array_equal(left.apply(raw), right.apply(raw))


def test_programs_survive_as_rows(fitted: tuple[Fitter, dict[str, Fitted]], arrays: dict[str, np.ndarray]) -> None:
    for item in fitted[1].values():
        raw = [arrays[d] for d in item.spec.descriptors]
        rows = item.program.to_rows()
        assert same(Program.from_rows(rows[::-1]), item.program, raw)


def test_programs_survive_the_lake(
    spark: SparkSession,
    wide: Callable[..., DataFrame],
    collect: Callable[[DataFrame], np.ndarray],
    pair: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    spec = joined([("b", "standard > pca: 4", 0.5), ("a", "clip > l2", 1.0)], "l2 > pca: 0.9 > minmax")
    df = wide(2, **pair)
    with Fitter(df, [spec], seed=1) as fitter:
        (item,) = fitter.fit()
    column = Lake.schema("feature_sets")["program"].dataType
    schema = f"program {column.simpleString()}"
    spark.createDataFrame([(item.program.to_rows(),)], schema).write.format("delta").save(str(tmp_path / "t"))
    stored = spark.read.format("delta").load(str(tmp_path / "t")).first()
    assert stored is not None
    program = Program.from_rows(stored["program"])
    assert same(program, item.program, [pair["b"], pair["a"]])
    expected = item.program.apply([pair["b"], pair["a"]])
    assert np.allclose(collect(transform(df, program)), expected, atol=1e-6)


def test_results_do_not_depend_on_the_partitions(wide_in_process: Callable[..., DataFrame]) -> None:
    x = made(12)
    sets = [one("a", t) for t in ("standard > pca: 4", "standard > robust > minmax")]
    outputs = []
    # With more partitions than rows some are empty.
    for partitions in (1, 3, 7, 16):
        with Fitter(wide_in_process(partitions, a=x), sets, seed=1) as fitter:
            outputs.append([item.program.apply([x]) for item in fitter.fit()])
    for other in outputs[1:]:
        for left, right in zip(outputs[0], other, strict=True):
            assert np.abs(left - right).max() <= 1e-5 * left.std(axis=0).max()


# -- edges -------------------------------------------------------------------------------------------


def test_fewer_rows_than_columns(wide_in_process: Callable[..., DataFrame]) -> None:
    x = made(15)
    texts = ["standard", "minmax", "pca: 14", "pca: 0.9", "standard > pca: 10 > standard", "svd: 12"]
    with Fitter(wide_in_process(4, a=x), [one("a", t) for t in texts], seed=1) as fitter:
        for item in fitter.fit():
            check(item, x, 1e-4)


def test_one_row_and_equal_rows_stay_finite(wide_in_process: Callable[..., DataFrame]) -> None:
    texts = ["standard", "minmax", "pca: 1 > standard", "pca: 0.9 > minmax", "svd: 1"]
    x = made(1, 1e4)
    with Fitter(wide_in_process(1, one=x), [one("one", t) for t in texts], seed=1) as fitter:
        for item in fitter.fit():
            y = item.program.apply([x])
            assert np.isfinite(y).all()
            if item.spec.steps[0].kind != "svd":
                assert np.all(y == 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (one("a", "pca: 25"), r"^feature set a > pca: 25: pca: 25: there are 60 images of 24 columns, so at most 24"),
        (one("a", "pca: 5 > svd: 6"), r"svd: 6: there are 60 images of 5 columns, so at most 5"),
        (joined([("a", "pca: 61", 1.0)], ""), r"^feature set .*, a: pca: 61: .* at most 24 components"),
    ],
    ids=["columns", "after pca", "in a part"],
)
def test_too_many_components_are_refused_by_name(
    wide_in_process: Callable[..., DataFrame], spec: FeatureSet, message: str
) -> None:
    with Fitter(wide_in_process(1, a=made(60)), [spec], seed=1) as fitter, pytest.raises(CaseError, match=message):
        fitter.fit()


def test_no_rows_are_refused(wide: Callable[..., DataFrame]) -> None:
    empty = wide(1, a=made(3)).where("image_id < 0")
    with Fitter(empty, [one("a", "pca: 2")], seed=1) as fitter, pytest.raises(ValueError, match="no rows"):
        fitter.fit()


def test_robust_from_a_sample_of_many_rows(
    wide_in_process: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = made(8000, 3.0)
    monkeypatch.setattr(fit_module, "SAMPLE_ROWS", 2000)
    with Fitter(wide_in_process(2, a=x), [one("a", "robust")], seed=1) as fitter:
        (item,) = fitter.fit()
    truth, _ = reference(item.spec.steps, item.program.ops, x)
    ours = item.program.apply([x])
    # A quartile of 2,000 rows is off by some hundredths of a standard deviation, and never exact.
    assert 1e-4 < np.abs(ours - truth).max() / np.abs(truth).max() < 0.15


# -- the real case -----------------------------------------------------------------------------------

REAL = ["standard", "minmax", "pca: 20", "pca: 0.9", "standard > pca: 10 > minmax", "pca: 10 > standard", "svd: 20"]
REAL += ["l2 > pca: 10", "minmax > pca: 20 > l2 > pca: 8"]


@pytest.fixture(scope="module")
def real(
    wide: Callable[..., DataFrame], case_vectors: Callable[[str], np.ndarray]
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Fitted]]]:
    arrays = {name: case_vectors(name) for name in ("vdc_type", "osnet")}
    with Fitter(wide(2, **arrays), [one(name, t) for name in arrays for t in REAL], seed=1) as fitter:
        items = {item.spec.name: item for item in fitter.fit()}
        yield arrays, items


@pytest.mark.parametrize("name", ["vdc_type", "osnet"])
@pytest.mark.parametrize("text", REAL)
def test_real_descriptors_equal_scikit_learn(
    real: tuple[dict[str, np.ndarray], dict[str, Fitted]], name: str, text: str
) -> None:
    # Directions of nearly equal variance turn into each other at the slightest rounding.
    check(real[1][f"{name} > {text}"], real[0][name], 1e-3)

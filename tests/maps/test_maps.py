"""Maps against scikit-learn's PCA, the libraries' own layouts and transforms; rows that are few, equal or all alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.optimize import minimize
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from cases import blobs, run_of, write_case
from motorpool.config.load import parse_config
from motorpool.errors import ConfigError, EnvironmentMissingError, LakeError
from motorpool.features.spec import PROJECTIONS
from motorpool.kernels.maps.landmarks import Kernel, Landmarks, Placed, Rows, pulled
from motorpool.kernels.maps.layouts import Layout, nearest_others
from motorpool.kernels.maps.quality import trust
from motorpool.kernels.moments import Moments
from motorpool.kernels.sampling import uniform_hash
from motorpool.maps import registry
from motorpool.maps.first_pass import first_pass
from motorpool.maps.placing import Axes, Sampled, lay_out_all, place_all
from motorpool.maps.registry import MAP_METHODS, check_packages
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import check_config
from motorpool.pipeline.stages.features import run_features
from motorpool.pipeline.stages.ingest import run_ingest
from motorpool.pipeline.stages.project import run_project

METHODS = [m.name for m in MAP_METHODS.values() if m.lay_out]


def layout(method: str, dims: int = 2, seed: int = 3, n_neighbors: int = 15, perplexity: float = 30.0) -> Layout:
    return Layout(method, dims, n_neighbors, perplexity, seed)


def lay_out(x: np.ndarray, start: np.ndarray, asked: Layout) -> np.ndarray:
    by = MAP_METHODS[asked.method].lay_out
    assert by is not None
    return by(x, start, asked)


def axes(x: np.ndarray, dims: int = 2) -> Axes:
    moments = Moments()
    moments.update(x.astype(np.float32))
    return Axes.of(moments.stats(), dims)


def laid_out(x: np.ndarray, method: str, dims: int = 2, **settings: Any) -> np.ndarray:
    found = lay_out(x, axes(x, dims).project(x), layout(method, dims, **settings))
    assert (found.shape, found.dtype) == ((len(x), dims), np.float32)
    assert np.isfinite(found).all()
    return found


def purity(places: np.ndarray, groups: np.ndarray) -> float:
    """The share of rows whose nearest other row on the map is of their own group."""
    _, nearest = NearestNeighbors(n_neighbors=1).fit(places).kneighbors()
    return float(np.mean(groups[nearest[:, 0]] == groups))


# -- layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dims", [2, 3])
def test_groups_stay_apart(method: str, dims: int) -> None:
    groups = np.arange(240) % 4
    x = blobs(240, 10, groups=4) + np.float32(500)
    found = laid_out(x, method, dims)
    assert purity(found, groups) == 1.0
    # Neighbours within a group too; by chance it is about 0.5, and the first two principal components reach 0.89.
    assert trustworthiness(x - 500, found) > 0.95
    assert np.array_equal(laid_out(x, method, dims), found)


@pytest.mark.parametrize("method", METHODS)
def test_layouts_are_as_good_as_the_libraries_own(method: str, case_vectors: Callable[[str], np.ndarray]) -> None:
    x = PCA(30, random_state=0).fit_transform(case_vectors("vdc_type")[:800]).astype(np.float32)
    ours = trustworthiness(x, laid_out(x, method))
    if method == "umap":
        import umap

        # Its own search, and a spectral start.
        theirs = umap.UMAP(random_state=0, n_jobs=1).fit_transform(x)
    else:
        import openTSNE

        theirs = np.asarray(openTSNE.TSNE(random_state=0, neighbors="exact").fit(x))
    assert ours > trustworthiness(x, theirs) - 0.01
    assert ours > trustworthiness(x, axes(x).project(x)) + 0.05


@pytest.mark.parametrize("method", METHODS)
def test_few_equal_and_constant_rows(method: str) -> None:
    for x in (blobs(4, 3), blobs(5, 2), np.repeat(blobs(3, 4), 6, axis=0), np.full((20, 3), 7.5, np.float32)):
        for dims in (2, 3):
            laid_out(x, method, dims)
    # Equal rows are neighbours, and so they are on the map.
    x = np.repeat(blobs(6, 4, groups=6), 20, axis=0)
    assert purity(laid_out(x, method, perplexity=5.0), np.repeat(np.arange(6), 20)) == 1.0
    with pytest.raises(ValueError, match="3 rows: a layout takes at least 4"):
        lay_out(blobs(3, 3), blobs(3, 2), layout(method))


def test_the_graph_leaves_out_the_row_itself() -> None:
    x = np.array([[0.0], [1.0], [1.0], [5.0]], np.float32)
    graph = nearest_others(x, 2)
    assert [set(row) for row in graph.others.tolist()] == [{1, 2}, {0, 2}, {0, 1}, {1, 2}]
    assert np.allclose(graph.distances, [[1, 1], [0, 1], [0, 1], [4, 4]])


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages(["pca", "umap", "tsne"])
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    check_packages(["pca"])
    with pytest.raises(EnvironmentMissingError, match=r"umap needs a package.*pip install umap-learn openTSNE"):
        check_packages(["pca", "umap", "tsne"])
    config = parse_config({"lake": {"path": "x"}, "projections": {"methods": ["tsne"]}})
    check_config(config, ["outliers"])
    with pytest.raises(ConfigError, match=r"projections\.methods: tsne needs.*pip install openTSNE"):
        check_config(config, ["project"])


# -- landmarks ---------------------------------------------------------------------------------------


def test_the_kernel_is_the_librarys() -> None:
    from umap.umap_ import find_ab_params

    assert np.allclose(
        find_ab_params(1.0, 0.1), (MAP_METHODS["umap"].kernel.a, MAP_METHODS["umap"].kernel.b), atol=1e-3
    )


@pytest.mark.parametrize("kernel", [MAP_METHODS[m].kernel for m in METHODS])
def test_rows_go_where_their_neighbours_pull_them(kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    for dims in (2, 3):
        neighbours = rng.normal(size=(50, 15, dims)) * rng.uniform(0.1, 3, (50, 1, 1))
        # Some neighbours in another group.
        neighbours[:, 11:] += 30

        def objective(y: np.ndarray, others: np.ndarray) -> float:
            return float(np.log1p(kernel.a * np.square(others - y).sum(axis=1) ** kernel.b).sum())

        found = pulled(neighbours, kernel).astype(np.float64)
        start, reached, best = np.array(
            [
                (objective(others[0], others), objective(y, others), minimize(objective, y, (others,)).fun)
                for y, others in zip(found, neighbours, strict=True)
            ]
        ).T
        assert np.all(reached <= start)
        # Of what there is to win, nearly all is won.
        assert (start - reached).sum() > 0.99 * (start - best).sum()
        # In the larger group, not in the void between the two.
        assert np.linalg.norm(found, axis=1).max() < 15


def test_landmarks_stay_and_others_join_their_group() -> None:
    groups = np.arange(300) % 3
    # Far from the origin, where squared lengths hold few digits of a distance.
    x = blobs(300, 8) + np.float32(3000)
    ids = np.arange(300, dtype=np.int64) * 7
    fitted = np.sort(np.random.default_rng(0).choice(300, 120, replace=False))
    sample = Rows(ids[fitted], x[fitted])
    places = {"tsne2": laid_out(x[fitted], "tsne", perplexity=10.0), "tsne3": laid_out(x[fitted], "tsne", 3)}
    placed = {name: Placed(array) for name, array in places.items()}
    shuffled = np.random.default_rng(1).permutation(300)
    found = Landmarks(sample, placed).place(ids[shuffled], x[shuffled])
    for name in places:
        everywhere = np.empty_like(found[name])
        everywhere[shuffled] = found[name]
        assert np.array_equal(everywhere[fitted], places[name])
        assert purity(everywhere, groups) == 1.0
        assert trustworthiness(x - 3000, everywhere) > 0.9
    # Of one landmark there is one place only; rows far from all of them have one too.
    lone = Landmarks(Rows(ids[:1], x[:1]), {"m": Placed(np.array([[1, 2]], np.float32))}).place(ids[:3], x[:3] * 100)
    assert np.array_equal(lone["m"], [[1, 2]] * 3)
    assert Landmarks(sample, placed).place(ids[:0], x[:0])["tsne3"].shape == (0, 3)


def test_held_out_rows_are_placed_as_well_as_by_the_library(case_vectors: Callable[[str], np.ndarray]) -> None:
    import openTSNE

    x = PCA(50, random_state=0).fit_transform(case_vectors("vdc_type")).astype(np.float32)
    order = np.argsort(uniform_hash(np.arange(len(x)), 42))
    fitted, held_out = np.sort(order[:1000]), order[1000:]
    places = laid_out(x[fitted], "tsne")
    ours = Landmarks(Rows(fitted, x[fitted]), {"m": Placed(places)}).place(held_out, x[held_out])["m"]
    model = openTSNE.TSNE(random_state=0, neighbors="exact").fit(x[fitted])
    theirs = np.asarray(model.transform(x[held_out]))
    reached = trustworthiness(x[held_out], ours)
    assert reached > trustworthiness(x[held_out], theirs) - 0.005
    # A mean of the same neighbours ends between the groups.
    _, near = NearestNeighbors(n_neighbors=15).fit(x[fitted]).kneighbors(x[held_out])
    assert reached > trustworthiness(x[held_out], places[near].mean(axis=1)) + 0.03


# -- all rows ----------------------------------------------------------------------------------------


def fetch(placed: DataFrame, name: str, n: int) -> np.ndarray:
    """float32[n, dims] of a map in the order of ids, which count from 0: every image has one place."""
    table = placed.where(F.col("method") == name).toArrow().sort_by("image_id")
    assert table.column("image_id").to_pylist() == list(range(n))
    dims = int(name[-1])
    if dims == 2:
        assert table.column("z").null_count == n
    return np.column_stack([table.column(c).to_numpy() for c in "xyz"[:dims]])


def principal(df: DataFrame, n: int) -> dict[int, np.ndarray]:
    seen = first_pass(df, 10, 10, seed=0)
    assert seen.stats.n == n
    placed = place_all("made", df, {f"pca{d}": Axes.of(seen.stats, d) for d in (2, 3)}, seen.sample, {})
    return {d: fetch(placed, f"pca{d}", n) for d in (2, 3)}


def test_pca_is_scikit_learns(blocked: Callable[..., DataFrame]) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(700, 9)) * np.geomspace(4, 0.2, 9) @ rng.normal(size=(9, 9)) + 100).astype(np.float32)
    x[:, 4] = 7
    found = principal(blocked(x, 3), 700)
    model = PCA(3).fit(x.astype(np.float64))
    expected = model.transform(x.astype(np.float64))
    signs = np.sign((found[3] * expected).sum(axis=0))
    assert np.allclose(found[3] * signs, expected, atol=1e-3)
    assert np.array_equal(found[3][:, :2], found[2])
    largest = np.abs(model.components_).argmax(axis=1)
    assert np.array_equal(signs, np.sign(model.components_[np.arange(3), largest]))


def test_pca_of_few_or_equal_rows(blocked: Callable[..., DataFrame]) -> None:
    assert not principal(blocked(blobs(1, 4), 3), 1)[3].any()
    assert not principal(blocked(np.full((30, 4), 2.5, np.float32)), 30)[3].any()
    two = blobs(2, 4)
    found = principal(blocked(two, 1), 2)[3]
    assert np.isclose(abs(found[0, 0] - found[1, 0]), np.linalg.norm(two[0] - two[1]))
    assert np.allclose(found[:, 1:], 0, atol=1e-5)
    with pytest.raises(ValueError, match="no rows"):
        first_pass(blocked(two).where("width < 0"), 10, 10, seed=0)


def test_all_rows_find_their_place_on_any_partitions(spark: SparkSession, blocked: Callable[..., DataFrame]) -> None:
    groups = np.arange(420) % 3
    x = blobs(420, 6)
    drawn = np.sort(np.argsort(uniform_hash(np.arange(420), 5))[:150])
    found = []
    # Two blocks on seven partitions leave five empty.
    for df in (blocked(x, 1), blocked(x, 3), blocked(x, 1).repartition(7)):
        seen = first_pass(df, 150, 90, seed=5)
        assert np.array_equal(seen.sample.ids, drawn)
        assert np.array_equal(seen.sample.x, x[drawn])
        assert np.array_equal(np.sort(np.argsort(uniform_hash(np.arange(420), 6))[:90]), seen.judged.ids)
        asked = Sampled(seen.sample, Axes.of(seen.stats, 2), [layout("tsne", perplexity=10.0)])
        ((done,),) = lay_out_all(spark, [asked])
        assert done.seconds > 0
        placed = place_all("made", df, {"pca2": Axes.of(seen.stats, 2)}, seen.sample, {"tsne2": done.placed})
        assert placed.columns == ["features", "image_id", "method", "x", "y", "z"]
        found.append((done.placed.places, fetch(placed, "tsne2", 420)))
        assert np.array_equal(found[-1][1][drawn], done.placed.places)
        assert purity(found[-1][1], groups) == 1.0
    # Sums over other partitions differ in their last digits, and layouts widen it: the same map, not the same bits.
    first, others = found[0][1], [m for _, m in found[1:]]
    for other in others:
        assert trustworthiness(first, other) > 0.95


def test_wide_rows_make_a_smaller_sample(blocked: Callable[..., DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motorpool.maps.first_pass.SAMPLE_VALUES", 600)
    seen = first_pass(blocked(blobs(300, 6)), 200, 40, seed=1)
    assert (len(seen.sample), len(seen.judged)) == (100, 40)


def test_trust() -> None:
    x = blobs(60, 5)
    places = axes(x).project(x)
    assert trust(x, places) == trustworthiness(x, places, n_neighbors=5)
    assert trust(x, x) == 1.0
    assert trust(x[:7], places[:7]) == trustworthiness(x[:7], places[:7], n_neighbors=3)
    assert (trust(x[:2], places[:2]), trust(x[:1], places[:1])) == (None, None)


# -- the stage ---------------------------------------------------------------------------------------

ROWS = 240
STUDY: dict[str, Any] = {
    "features": [
        {"descriptor": "vdc_type", "steps": [{"pca": 4}]},
        {"descriptor": "osnet", "steps": ["standard"]},
    ],
    "projections": {"methods": ["pca", "umap", "tsne"], "dims": [2, 3], "sample": 120, "features": ["vdc_type-pca4"]},
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = {"vdc_type": blobs(ROWS, 9), "osnet": blobs(ROWS, 1)}
    return write_case(tmp_path_factory.mktemp("projection") / "case", ROWS, arrays)


def changed(ctx: Context, **projections: Any) -> Context:
    """The same lake, asked for something else."""
    data = ctx.config.model_dump(include={"lake"}, by_alias=True) | STUDY
    config = parse_config(data | {"projections": STUDY["projections"] | projections})
    return Context(config, ctx.spark, ctx.lake)


@pytest.fixture(scope="module")
def done(spark: SparkSession, case: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = run_of(spark, case, tmp_path_factory.mktemp("lake") / "lake", "parquet", **STUDY)
    run_ingest(ctx)
    run_features(ctx)
    run_project(ctx)
    return ctx


def methods(ctx: Context) -> dict[str, dict[str, Any]]:
    return {r["method"]: r.asDict(recursive=True) for r in ctx.lake.read("projection_methods").collect()}


def places(ctx: Context, method: str) -> list[Any]:
    return ctx.lake.read("projections").where(F.col("method") == method).orderBy("image_id").collect()


def test_the_tables(done: Context, collect: Callable[[DataFrame, str], np.ndarray]) -> None:
    x = collect(done.lake.read("features", features="vdc_type-pca4"), "vector")
    rows = methods(done)
    assert set(rows) == {"pca2", "pca3", "umap2", "umap3", "tsne2", "tsne3"}
    for name, row in rows.items():
        found = fetch(done.lake.read("projections", features="vdc_type-pca4"), name, ROWS)
        assert (row["features"], row["n_images"], row["backend"]) == ("vdc_type-pca4", ROWS, "cpu")
        assert row["n_fitted"] == (ROWS if name.startswith("pca") else 120)
        # So few images are all judged.
        assert row["trustworthiness"] == pytest.approx(trustworthiness(x, found), abs=1e-6)
        assert purity(found, np.arange(ROWS) % 3) == 1.0
        assert row["seconds"] > 0
    assert rows["pca3"]["params"] == {"seed": "42"}
    assert rows["umap2"]["params"] == {"n_neighbors": "15", "sample": "120", "seed": "42"}
    assert rows["tsne3"]["params"] == {"perplexity": "30.0", "sample": "120", "seed": "42"}


def test_what_is_there_is_not_made_again(done: Context, caplog: pytest.LogCaptureFixture) -> None:
    before = methods(done)
    with caplog.at_level(logging.INFO, "motorpool"):
        run_project(done)
    assert "all maps of the study are in the lake" in caplog.text
    assert methods(done) == before


def test_a_run_goes_on_where_it_was_killed(done: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    before, kept = methods(done), places(done, "pca3")
    other = changed(done, perplexity=9)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("motorpool.pipeline.stages.project._trust", killed)
        with pytest.raises(KeyboardInterrupt):
            run_project(other)
    # The new places are there, and nothing says so; those of other maps are as they were.
    assert methods(done)["tsne2"]["params"] == {}
    assert len(places(done, "tsne2")) == ROWS
    assert places(done, "pca3") == kept
    run_project(other)
    after = methods(done)
    assert after["tsne2"]["params"]["perplexity"] == "9.0"
    others = [name for name in before if not name.startswith("tsne")]
    assert {k: after[k] for k in others} == {k: before[k] for k in others}
    # The first study asks for another perplexity.
    run_project(done)
    assert methods(done)["tsne2"]["params"] == before["tsne2"]["params"]


def test_what_the_stage_refuses(done: Context) -> None:
    with pytest.raises(ConfigError, match=r"projections\.dims: 2 dimensions of 'osnet-standard', which has 1 column"):
        run_project(changed(done, dims=[2], features=None))
    config = parse_config({**STUDY, "lake": {"path": f"{done.lake.config.path}-none"}})
    with pytest.raises(LakeError, match="run `motorpool features` first"):
        run_project(Context(config, done.spark, type(done.lake)(done.spark, config.lake)))


def test_without_its_section_the_stage_does_nothing(done: Context, caplog: pytest.LogCaptureFixture) -> None:
    config = parse_config({"lake": {"path": "x"}})
    with caplog.at_level(logging.INFO, "motorpool"):
        run_project(Context(config, done.spark, done.lake))
    assert "no section `projections`" in caplog.text


def test_three_images_have_principal_components_only(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = write_case(tmp_path / "case", 3, {"vdc_type": blobs(3, 9), "osnet": blobs(3, 4)})
    ctx = run_of(spark, case, tmp_path / "lake", "parquet", **STUDY | {"features": STUDY["features"][1:]} | {
        "projections": {"dims": [2]}
    })  # fmt: skip
    run_ingest(ctx)
    run_features(ctx)
    with caplog.at_level(logging.INFO, "motorpool"):
        run_project(ctx)
    assert "umap2 of osnet-standard left out: it has 3 images, and they take at least 4" in caplog.text
    assert set(methods(ctx)) == {"pca2"}
    assert len(places(ctx, "pca2")) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"methods": ["som"]}, ["projections.methods[0]", "'som'"]),
        ({"methods": []}, ["projections.methods"]),
        ({"methods": ["pca", "pca"]}, ["projections", "`methods` names 'pca' twice"]),
        ({"dims": [4]}, ["projections.dims[0]", "4"]),
        ({"dims": [2, 2]}, ["projections", "`dims` names 2 twice"]),
        ({"sample": 99}, ["projections.sample", "99"]),
        ({"n_neighbors": 1}, ["projections.n_neighbors", "1"]),
        ({"perplexity": 50, "sample": 150}, ["projections", "perplexity = 50", "150", "raise the sample"]),
        ({"n_neighbors": 120, "sample": 110}, ["projections", "n_neighbors = 120", "110"]),
        ({"features": ["none"]}, ["projections.features", "'none'", "osnet-pca2"]),
        ({"dims": [3]}, ["projections.dims", "3 dimensions of 'osnet-pca2'", "keeps 2 column"]),
        ({"neighbours": 3}, ["projections.neighbours", "unknown key"]),
    ],
)
def test_mistakes_in_the_config_name_the_key(values: dict[str, Any], words: list[str]) -> None:
    data = {"lake": {"path": "x"}, "features": [{"descriptor": "osnet", "steps": [{"pca": 2}]}], "projections": values}
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_whatever_keeps_too_few_columns_is_named_before_any_work(kind: str) -> None:
    steps = [{"pca": 150}, {kind: 2}, "standard"]
    with pytest.raises(ConfigError, match=r"3 dimensions of 'narrow', which keeps 2 column"):
        parse_config(
            {
                "lake": {"path": "x"},
                "features": [{"name": "narrow", "descriptor": "osnet", "steps": steps}],
                "projections": {"dims": [3]},
            }
        )

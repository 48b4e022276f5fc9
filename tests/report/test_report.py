"""The report: its numbers and pictures, and the page as a real browser shows it."""

from __future__ import annotations

import base64
import importlib.util
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pyspark.sql import SparkSession
from scipy.cluster import hierarchy

from motorpool import cli
from motorpool.config.load import parse_config
from motorpool.config.run import LakeConfig, ReportConfig
from motorpool.errors import ConfigError, EnvironmentMissingError, LakeError
from motorpool.interpret.overrides import Override, load_overrides
from motorpool.kernels.trees.linkage import cut, linkage
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES
from motorpool.pipeline.context import Context
from motorpool.pipeline.stages.report import Summary, check_report, run_report, write_report
from motorpool.report import palette
from motorpool.report.figures import maps
from motorpool.report.figures.charts import score_charts
from motorpool.report.figures.dendrogram import branches
from motorpool.report.figures.drawing import draw_dendrogram, draw_maps, draw_turning, leaf_names, save_3d
from motorpool.report.gaps import gaps
from motorpool.report.queries import Tree
from motorpool.report.verdict import verdict
from motorpool.report.wording import number, percent, title_of
from report_lake import EVIL, EVIL_TITLE, EVIL_VALUE, EVIL_VEHICLE, K, make_lake

N_IMAGES, N_MODELS = 300, 870


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Path, Summary]:
    """A report of a lake with 870 models, and where it lies."""
    folder = tmp_path_factory.mktemp("report")
    lake = make_lake(spark, folder, images=N_IMAGES, models=N_MODELS)
    done = write_report(lake, ReportConfig(thumbnails=250), folder / "out", str(folder / "photos"), seed=1)
    return lake, folder / "out", done


def study_of(spark: SparkSession, lake: Path, **sections: Any) -> Context:
    """A run without a case."""
    config = parse_config({"lake": {"path": str(lake), "format": "parquet"}, **sections})
    return Context(config, spark, Lake(spark, config.lake))


def ranked(**columns: list[Any]) -> pd.DataFrame:
    """Models as `queries.models` gives them."""
    n = len(columns["features"])
    fill = {"algorithm": ["kmeans"] * n, "n_clusters": [3] * n, "silhouette": [0.1] * n, "status": ["ok"] * n,
            "model_id": [f"m{i}" for i in range(n)], "params": [{"k": "3"}] * n,
            "warning": [None] * n}  # fmt: skip
    return pd.DataFrame(fill | columns)


class TestWording:
    @pytest.mark.parametrize(
        ("value", "text"), [(None, "–"), (float("nan"), "–"), (0.12345, "0.123"), (1234.5, "1,234"), (-3.0, "-3.000")]
    )
    def test_number(self, value: float | None, text: str) -> None:
        assert number(value) == text

    @pytest.mark.parametrize(
        ("share", "text"), [(0, "0 %"), (0.00004, "under 0.01 %"), (0.0004, "0.04 %"), (0.031, "3.1 %"), (0.27, "27 %")]
    )
    def test_percent(self, share: float, text: str) -> None:
        assert percent(share) == text

    def test_a_cluster_without_a_title_is_named_by_its_number(self) -> None:
        assert [title_of(None, 3), title_of(" ", 3), title_of("red", 3)] == ["cluster 3", "cluster 3", "red"]


class TestVerdict:
    MODELS = ranked(
        features=["a", "a", "b"], rank=[1, 2, 3], rank_in_features=[1, 2, 1], score=[0.2, 0.21, 0.6],
        calinski_harabasz=[10.0, 20.0, 5.0], davies_bouldin=[1.0, 2.0, 1.0], vehicle_agreement=[0.7, 0.9, 0.8],
    )  # fmt: skip
    PAIRS = pd.DataFrame(
        [("m0", "m2", "a", "b", 0.25), ("m1", "m2", "a", "b", 0.9)],
        columns=["model_a", "model_b", "features_a", "features_b", "ari"],
    )
    #: Nothing is measured of the first model.
    FOLLOWED = pd.DataFrame(
        [("m1", "camera", 0.9, 0.1, 10)], columns=["model_id", "column_name", "nmi", "nmi_by_chance", "n_images"]
    )

    def test_places_are_counted_where_scores_compare(self) -> None:
        found = verdict(self.MODELS, self.PAIRS, self.FOLLOWED)
        assert found is not None
        assert found.headline == "KMeans with 3 clusters on a"
        why = " ".join(found.why)
        assert "Calinski-Harabasz alone would put 1 of the 2 models on a before it." in why
        assert "Davies-Bouldin alone would choose it too, among 2 models on a." in why
        assert "Vehicle agreement alone would put 2 of the 3 models before it." in why

    def test_agreement_of_views_does_not_count(self) -> None:
        found = verdict(self.MODELS.assign(vehicle_part=["whole", "whole", "within"]), self.PAIRS, self.FOLLOWED)
        assert found is not None
        assert "Vehicle agreement alone would put 1 of the 2 models before it." in " ".join(found.why)

    def test_a_lead_says_what_to_do(self) -> None:
        found = verdict(self.MODELS, self.PAIRS, self.FOLLOWED)
        assert found is not None
        gap = found.facts[1]
        assert gap.value == "0.010"
        assert gap.text == (
            "Too small to decide by: look at the photos of KMeans with 3 clusters on a too, and take the clusters that "
            "you can name. Only if photos of one vehicle must share a cluster, take the next one: its vehicle "
            "agreement is 0.90, here it is 0.70."
        )
        clear = verdict(
            self.MODELS.assign(score=[0.2, 0.4, 0.6], vehicle_agreement=[0.9, 0.8, 0.7]), self.PAIRS, self.FOLLOWED
        )
        assert clear is not None
        assert clear.facts[1].text == (
            "Large enough to start here: the next one, KMeans with 3 clusters on a, is clearly behind by these scores."
        )

    @pytest.mark.parametrize(
        ("value", "means"), [(0.9, "you can name whole vehicles"), (0.6, "name a vehicle by the cluster of most"),
                             (0.2, "do not name vehicles by these clusters")],
    )  # fmt: skip
    def test_agreement_says_whether_vehicles_can_be_named(self, value: float, means: str) -> None:
        found = verdict(self.MODELS.assign(vehicle_agreement=value, agreement_vehicles=75), self.PAIRS, self.FOLLOWED)
        assert found is not None
        assert means in found.facts[0].text
        assert found.facts[0].note == "0 is chance, 1 is always, on 75 vehicles with two or more photos."

    @pytest.mark.parametrize(
        ("ari", "means"), [(0.7, "hardly matters"), (0.4, "look longer at a cluster that only"),
                           (0.1, "decide first what you want to tell apart")],
    )  # fmt: skip
    def test_other_descriptors_say_whether_to_trust_this_one(self, ari: float, means: str) -> None:
        found = verdict(self.MODELS, self.PAIRS.assign(ari=ari), self.FOLLOWED)
        assert found is not None
        assert means in found.facts[2].text

    def test_agreement_with_other_descriptors_is_of_this_model_only(self) -> None:
        found = verdict(self.MODELS, self.PAIRS, self.FOLLOWED)
        assert found is not None
        assert found.facts[2].value == "0.25"

    def test_what_it_should_not_follow_is_told_and_comes_first_where_it_does(self) -> None:
        rows = [("m0", "hour", 0.3, 0.02, 1000), ("m0", "camera", 0.62, 0.02, 1000), ("m0", "none", None, None, 0)]
        followed = pd.concat([self.FOLLOWED, pd.DataFrame(rows, columns=self.FOLLOWED.columns)])
        quiet = verdict(self.MODELS, self.PAIRS, followed)
        assert quiet is not None
        assert (quiet.facts[-1].value, quiet.facts[-1].label) == ("0.62", "in common with camera")
        assert quiet.facts[-1].text == "The clusters follow the camera little, so they show something else."
        warned = verdict(self.MODELS.assign(warning="its clusters follow camera (NMI 0.62)"), self.PAIRS, followed)
        assert warned is not None
        assert len(warned.facts) == 4
        assert warned.facts[0].text == (
            "Its clusters follow camera (NMI 0.62). A cluster that is a camera is no type: look at its photos before "
            "you name it, or take the camera out of the vectors by the step group_center: {by: camera}."
        )
        assert "chance alone stays below 0.02" in warned.facts[0].note

    def test_what_is_not_known_is_said(self) -> None:
        lone = ranked(
            features=["a"], rank=[1], rank_in_features=[1], score=[0.5], calinski_harabasz=[2.0], davies_bouldin=[1.0],
            vehicle_agreement=[None],
        )  # fmt: skip
        found = verdict(lone, self.PAIRS.head(0), self.FOLLOWED)
        assert found is not None
        assert [fact.value for fact in found.facts] == ["–", "–", "–"]
        assert "Not measured" in found.facts[0].text
        assert "consensus in the config measures it" in found.facts[2].note

    def test_no_ranked_model_no_verdict(self) -> None:
        none = self.MODELS.assign(rank=np.nan)
        assert verdict(none, self.PAIRS, self.FOLLOWED) is None


class TestCharts:
    def test_only_vehicle_agreement_shares_its_axis(self) -> None:
        made = {c.name: c for c in score_charts(TestVerdict.MODELS)}
        assert {name for name, c in made.items() if c.share_y} == {"scores-vehicle_agreement"}
        assert [p.title for p in made["scores-davies_bouldin"].panels] == ["a", "b"]

    def test_lines_are_told_apart_by_the_parameters_that_differ(self) -> None:
        models = ranked(
            features=["a"] * 4, rank=[1, 2, 3, 4], rank_in_features=[1, 2, 3, 4], score=[0.1] * 4,
            calinski_harabasz=[4.0, 3.0, 2.0, 1.0], davies_bouldin=[1.0] * 4, vehicle_agreement=[None] * 4,
            algorithm=["agglomerative"] * 3 + ["dbscan"], n_clusters=[2, 3, 2, 900],
            params=[{"n_clusters": "2", "linkage": "ward"}, {"n_clusters": "3", "linkage": "ward"},
                    {"n_clusters": "2", "linkage": "average"}, {"eps": "1"}],
        )  # fmt: skip
        made = {c.name: c for c in score_charts(models)}
        assert "scores-vehicle_agreement" not in made
        panel = made["scores-calinski_harabasz"].panels[0]
        assert [(s.name, s.x, s.y) for s in panel.series] == [
            ("agglomerative, average", [2.0], [2.0]), ("agglomerative, ward", [2.0, 3.0], [4.0, 3.0]),
        ]  # fmt: skip
        assert "1 models with more than 30 clusters" in made["scores-calinski_harabasz"].note


class TestDendrogram:
    def test_the_same_picture_as_scipys_of_the_last_merges(self) -> None:
        points = np.random.default_rng(0).normal(size=(90, 4))
        merges = linkage(points, np.ones(90), "ward")
        drawn = branches(Tree(merges, cut(merges, 5)))
        theirs = hierarchy.dendrogram(merges, truncate_mode="lastp", p=40, no_plot=True)
        assert np.allclose(np.sort(drawn.height.max(axis=1)), np.sort(np.array(theirs["dcoord"]).max(axis=1)))
        known = [n for n in drawn.leaf_images if n is not None]
        counts = [int(t.strip("()")) if t.startswith("(") else 1 for t in theirs["ivl"]]
        assert len(drawn.leaf_images) == 40
        assert sorted(known) == sorted(counts)[-len(known) :]

    def test_leaves_lie_in_one_cluster_and_the_cut_is_between_heights(self) -> None:
        points = np.random.default_rng(1).normal(size=(70, 3))
        merges = linkage(points, np.full(70, 10.0), "average")
        drawn = branches(Tree(merges, cut(merges, 6)))
        changes = np.count_nonzero(np.diff(drawn.leaf_cluster))
        assert (len(set(drawn.leaf_cluster)), changes) == (6, 5)
        assert np.count_nonzero(merges[:, 2] > drawn.cut) == 5
        assert drawn.line_cluster.count(-1) == 5

    def test_a_chain_of_many_clusters_is_drawn_in_part(self, tmp_path: Path) -> None:
        """Deeper than the interpreter's recursion goes, and a picture of all leaves would be too high."""
        m = 3000
        chain = np.column_stack([np.r_[0, m + np.arange(m - 2)], 1 + np.arange(m - 1)])
        merges = np.column_stack([chain, np.arange(1.0, m), 2 + np.arange(m - 1)]).astype(float)
        drawn = branches(Tree(merges, cut(merges, m)))
        several = drawn.leaf_clusters.index(m - 199)
        assert sorted(drawn.leaf_clusters) == [1] * 199 + [m - 199]
        assert (drawn.leaf_cluster[several], drawn.leaf_images[several]) == (-1, m - 199)
        assert leaf_names(drawn, {})[several] == "2,801 clusters (2,801)"
        assert set(drawn.line_cluster) == {-1}
        assert 0 < drawn.cut < drawn.height.max(axis=1).min()
        draw_dendrogram(drawn, "a chain", {}, tmp_path / "tree.png")
        assert (tmp_path / "tree.png").exists()

    @pytest.mark.parametrize("m", [2, 3])
    def test_small_trees(self, m: int) -> None:
        merges = linkage(np.arange(m, dtype=float)[:, None] ** 2, np.ones(m), "ward")
        drawn = branches(Tree(merges, np.zeros(m, int)))
        assert len(drawn.leaf_cluster) == m
        assert set(drawn.line_cluster) == {0}


class TestMaps:
    def test_packing_keeps_places_within_a_step(self) -> None:
        xyz = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * 40
        xyz[7] = np.nan
        packed = maps.pack(xyz)
        at = np.frombuffer(base64.b64decode(packed["at"]), "<u4")
        assert (packed["n"], len(at), 7 in at) == (499, 499, False)
        for axis, column in enumerate(packed["columns"]):
            steps = np.frombuffer(base64.b64decode(column), "<u2")
            back = packed["low"][axis] + steps / 65535 * packed["span"][axis]
            assert np.abs(back - xyz[at, axis]).max() <= 0.51 * packed["span"][axis] / 65535

    def test_one_point_and_none(self) -> None:
        assert maps.pack(np.zeros((1, 2), np.float32))["n"] == 1
        assert maps.pack(np.full((3, 2), np.nan, np.float32))["n"] == 0

    def test_numbers_of_clusters_do_not_overlap(self) -> None:
        rng = np.random.default_rng(2)
        xy, clusters = rng.normal(size=(900, 2)), rng.integers(0, 12, 900)
        places = np.array(list(maps.label_positions(xy, clusters).values()))
        unit = places / np.ptp(xy, axis=0)
        gaps = np.linalg.norm(unit[:, None] - unit[None], axis=2) + np.eye(12)
        assert gaps.min() >= 0.045 - 1e-9

    def test_many_clusters_have_no_numbers(self) -> None:
        xy = np.random.default_rng(0).normal(size=(82, 2))
        assert len(maps.label_positions(xy, np.arange(82) % 40)) == 40
        assert maps.label_positions(xy, np.arange(82) % 41) == {}

    def test_noise_has_no_number(self) -> None:
        assert list(maps.label_positions(np.eye(4)[:, :2], np.array([-1, -1, 2, 2]))) == [2]


class TestFrame:
    def test_without_far_points_it_holds_all(self) -> None:
        xyz = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32) * [1, 20, 300] + 7
        xyz[5] = np.nan
        frame = maps.frame_of(xyz)
        low, high = np.nanmin(xyz, axis=0), np.nanmax(xyz, axis=0)
        assert not frame.cut
        assert np.allclose([low - frame.low, frame.high - high], 0.04 * (high - low), rtol=1e-4)
        assert not frame.outside(xyz).any()

    def test_a_few_far_points_lie_outside(self) -> None:
        """On the side where they are; the others end as they would without them."""
        xy = np.random.default_rng(1).normal(size=(2000, 2))
        low = xy.min(axis=0)
        far = np.arange(0, 2000, 167)
        xy[far, 1] = 1000 + np.arange(len(far))
        frame = maps.frame_of(xy)
        inside = 2 * 2.33  # of a normal distribution, without a hundredth at either end
        assert frame.cut
        assert np.flatnonzero(frame.outside(xy)).tolist() == far.tolist()
        assert 0 < low[1] - frame.low[1] < 0.5
        assert 2.33 < frame.high[1] < 2.33 + 0.3 * inside
        # The numbers keep their distance in what is shown, not in what there is.
        (at, other) = maps.label_positions(xy, np.arange(2000) % 2).values()
        assert 0.045 - 1e-9 <= np.linalg.norm((np.array(at) - other) / frame.span) < 0.1

    def test_far_points_do_not_widen_the_other_axis(self) -> None:
        xy = np.random.default_rng(5).uniform(size=(2000, 2))
        xy[:12] = [50, 1.4]
        frame = maps.frame_of(xy)
        assert np.count_nonzero(frame.outside(xy)) == 12
        assert frame.high[1] < 1.05

    def test_many_far_points_are_a_part_of_the_map(self) -> None:
        xy = np.random.default_rng(2).normal(size=(2000, 2))
        xy[:60] += 50
        assert not maps.frame_of(xy).cut

    def test_one_value_one_point_and_none(self) -> None:
        constant = np.column_stack([np.full(500, 3.0), np.arange(500)])
        frame = maps.frame_of(constant)
        assert (frame.low[0], frame.high[0], frame.span[0], frame.cut) == (3.0, 3.0, 1.0, False)
        nearly = np.zeros((500, 2))
        nearly[7] = 5
        assert not maps.frame_of(nearly).cut
        assert maps.frame_of(np.array([[1.0, 2.0]])).low.tolist() == [1.0, 2.0]
        assert not maps.frame_of(np.full((3, 2), np.nan)).cut

    def test_packing_keeps_the_frame_fine_where_points_lie_far_off(self) -> None:
        xy = np.random.default_rng(3).normal(size=(2000, 2))
        xy[0] = 1e5
        packed = maps.pack(xy)
        steps = np.frombuffer(base64.b64decode(packed["columns"][0]), "<u4")
        assert np.abs(packed["low"][0] + steps / packed["steps"] * packed["span"][0] - xy[:, 0]).max() < 1e-4

    def test_pictures_leave_out_what_is_outside_and_say_so(self, tmp_path: Path) -> None:
        xyz = np.random.default_rng(4).normal(size=(1000, 3)).astype(np.float32)
        clusters = np.zeros(1000, np.int32)
        far = xyz.copy()
        far[:4] = 500
        drawn = []
        for points in (xyz, far):
            shown = maps.Map("set", "umap2", "UMAP, 2-D", points[:, :2], clusters, {0: (0.0, 0.0)})
            draw_maps([shown], tmp_path / "flat.png", 1000)
            save_3d(maps.Map("set", "umap3", "UMAP, 3-D", points, clusters), tmp_path / "deep.png")
            for name in ("flat", "deep"):
                with Image.open(tmp_path / f"{name}.png") as image:
                    drawn.append((np.asarray(image.convert("L")) < 250).mean())
        flat, deep, far_flat, far_deep = drawn
        # Squeezed into a corner, the points would cover hardly anything.
        assert far_flat > 0.7 * flat
        assert far_deep > 0.7 * deep


class TestFolder:
    @pytest.mark.parametrize("scheme", ["", "file:", "file://"])
    def test_the_default_lies_beside_the_lake(self, tmp_path: Path, scheme: str) -> None:
        assert check_report(LakeConfig(path=f"{scheme}{tmp_path}/lake"), None) == tmp_path / "report"

    @pytest.mark.parametrize(
        ("lake", "out", "message"),
        [
            ({"path": "s3://bucket/lake"}, None, "report.out: is missing: the lake (s3://bucket/lake)"),
            ({"schema": "gold"}, None, "report.out: is missing: the lake (in a catalog)"),
            ({"path": "{tmp}/lake"}, "s3://bucket/report", "report.out: s3://bucket/report: is written to a local"),
            ({"path": "{tmp}/lake"}, "{tmp}/lake/report", "must lie beside"),
            ({"path": "{tmp}/lake"}, "{tmp}", "must lie beside"),
            ({"path": "file://{tmp}/lake"}, "{tmp}/lake/report", "must lie beside"),
            ({"path": "{tmp}/lake"}, "{tmp}/mine", "holds other files and no data/charts.js"),
            ({"path": "{tmp}/lake"}, "{tmp}/mine/thesis.tex", "is a file; name a folder"),
        ],
    )
    def test_where_it_cannot_lie(self, tmp_path: Path, lake: dict[str, str], out: str | None, message: str) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("years of work")
        config = LakeConfig(**{k: v.replace("{tmp}", str(tmp_path)) for k, v in lake.items()})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=re.escape(message)):
            check_report(config, out and out.replace("{tmp}", str(tmp_path)))

    def test_a_missing_package_is_named_with_the_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
        with pytest.raises(EnvironmentMissingError, match="needs plotly, not installed here: pip install plotly"):
            check_report(LakeConfig(path=str(tmp_path / "lake")), None)


class TestWritten:
    def test_bounded_and_complete(self, made: tuple[Lake, Path, Summary]) -> None:
        _, out, done = made
        assert done.n_bytes < 12e6  # plotly.js is 4.8 MB of it
        assert (done.n_points, done.n_unreadable) == (N_IMAGES, 4)
        pictures = {p.name for p in (out / "figures").iterdir() if p.suffix != ".csv"}
        scores = {f"scores-{s}.png" for s in ("vehicle_agreement", "silhouette", "calinski_harabasz", "davies_bouldin")}
        assert pictures == scores | {
            "explained_variance.png", "k_distances.png", "cluster_sizes.png", "agreement.png", "dendrogram.png",
            "maps_2d.png", "map_3d.png", "map_3d.gif", "label_curves.png",
        }  # fmt: skip
        for picture in sorted(pictures):
            with Image.open(out / "figures" / picture) as image:
                image.load()
                assert np.asarray(image.convert("L")).std() > 5, picture
        # Every figure but the maps has its data beside it.
        assert {p.stem for p in (out / "figures").glob("*.csv")} == {
            Path(name).stem for name in pictures if not name.startswith("map")
        }

    def test_data_of_figures_and_lists_of_photos_are_the_tables(self, made: tuple[Lake, Path, Summary]) -> None:
        lake, out, _ = made
        sizes = pd.read_csv(out / "figures" / "cluster_sizes.csv")
        assert len(sizes) == 8 * K
        assert sizes["x"].sum() == pytest.approx(800)
        scores = pd.read_csv(out / "figures" / "scores-davies_bouldin.csv")
        known = {r["model_id"]: r["davies_bouldin"] for r in lake.rows("models", ["model_id", "davies_bouldin"])}
        assert all(
            known[row.name_] == pytest.approx(row.y) for row in scores.rename(columns={"name": "name_"}).itertuples()
        )
        assert pd.read_csv(out / "figures" / "agreement.csv", index_col=0).shape == (8, 8)
        file = out / "lists" / f"1-set0-pca50-k{K}-cluster-3.csv"
        listed = pd.read_csv(file, dtype=str)
        ids = {r["image_id"] for r in lake.read("labels").where("cluster = 3").collect()}
        paths = {r["image_id"]: r["path"] for r in lake.read("images").collect()}
        assert sorted(listed["path"]) == sorted(paths[i] for i in ids)
        assert list(listed.columns) == ["path", "vehicle_id", "distance"]

    def test_the_gif_turns(self, made: tuple[Lake, Path, Summary]) -> None:
        with Image.open(made[1] / "figures" / "map_3d.gif") as gif:
            assert gif.n_frames == 36
            frames = []
            for at in (0, 9, 18):
                gif.seek(at)
                frames.append(np.asarray(gif.convert("RGB")).astype(int))
        assert np.abs(frames[0] - frames[1]).mean() > 1
        assert np.abs(frames[1] - frames[2]).mean() > 1

    def test_nothing_in_the_page_runs_or_is_fetched(self, made: tuple[Lake, Path, Summary]) -> None:
        html = (made[1] / "index.html").read_text()
        assert EVIL not in html
        assert EVIL_VEHICLE not in html
        assert EVIL_VALUE not in html
        assert not re.search(r'(src|href)="(https?:)?//', html)
        assert "<script>" not in "".join(p.read_text() for p in (made[1] / "data").iterdir())

    def test_written_again_it_replaces_itself_and_leaves_nothing_aside(
        self, made: tuple[Lake, Path, Summary], tmp_path: Path
    ) -> None:
        lake, out, _ = made
        again = tmp_path / "report"
        shutil.copytree(out, again)
        (again / "stale.txt").write_text("old")
        broken = Lake(lake.spark, LakeConfig(path=str(tmp_path / "none"), format="parquet"))
        with pytest.raises(LakeError, match="motorpool ingest"):
            write_report(broken, ReportConfig(), again, None, seed=1)
        assert (again / "stale.txt").exists()
        write_report(lake, ReportConfig(points=100, thumbnails=0), again, None, seed=1)
        assert not (again / "stale.txt").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["report"]
        html = (again / "index.html").read_text()
        assert "There are no photos in it" in html
        assert "This report has no photos: none were named." in html

    def test_every_section_does_without_its_table(
        self, spark: SparkSession, tmp_path: Path, made: tuple[Lake, Path, Summary]
    ) -> None:
        bare = set(TABLES) - {"images", "models", "feature_sets"}
        make_lake(spark, tmp_path, images=40, models=130, without=bare)
        run_report(study_of(spark, tmp_path / "lake", report={}))
        html = (tmp_path / "report" / "index.html").read_text()
        for command in ("cluster", "consensus", "project", "run", "outliers"):
            assert f"<code>motorpool {command} --conf FILE</code>" in html
        # With the same config these commands would change nothing.
        for gap in ("consensus: {n_clusters: 2..10}", "{algorithm: dbscan, eps: auto, min_samples: 10}"):
            assert gap in html
        assert "The clustering to trust: KMeans with 6 clusters on set0-pca50" in html
        assert "No labels yet: people have not looked at any photo" in html
        assert "<code>motorpool annotate draw --conf FILE --attribute type --n 50 --out looks.csv</code>" in html

    def test_a_config_without_the_section_writes_nothing(self, spark: SparkSession, tmp_path: Path) -> None:
        run_report(study_of(spark, tmp_path / "lake"))
        assert not any(tmp_path.iterdir())

    @pytest.mark.slow
    def test_a_run_writes_it_again_where_something_has_changed(self, spark: SparkSession, tmp_path: Path) -> None:
        lake = make_lake(spark, tmp_path, images=40, models=6)
        page = tmp_path / "report" / "index.html"

        def written(photos: Path | None = None, **settings: Any) -> bool:
            before = page.stat().st_mtime_ns if page.exists() else None
            case = {"case": {"path": str(tmp_path), "images_root": str(photos)}} if photos else {}
            run_report(study_of(spark, tmp_path / "lake", report={"thumbnails": 5, **settings}, **case))
            return page.stat().st_mtime_ns != before

        assert written()
        assert not written()
        assert written(points=100)
        assert not written(points=100)
        lake.overwrite_rows("agreement", [])
        assert written(points=100)
        assert not written(points=100)
        shutil.rmtree(page.parent)
        # Some photos of this lake cannot be read, and may be there the next time.
        assert written(tmp_path / "photos", points=100)
        assert written(tmp_path / "photos", points=100)

    def test_the_command(
        self, made: tuple[Lake, Path, Summary], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lake = str(made[0])
        status = cli.main(
            ["report", "--lake", lake, "--out", str(tmp_path / "r"), "--images", str(made[1].parent / "photos")]
        )
        assert status == 0
        assert str(tmp_path / "r" / "index.html") in capsys.readouterr().out
        assert cli.main(["report", "--lake", lake, "--out", str(Path(lake) / "r")]) == 2
        assert "must lie beside" in capsys.readouterr().err

    def test_without_photos_it_says_what_to_give(
        self, made: tuple[Lake, Path, Summary], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("motorpool")
        logger.addHandler(caplog.handler)
        try:
            write_report(made[0], ReportConfig(points=100, thumbnails=0, cards=1), tmp_path / "r", None, seed=1)
        finally:
            logger.removeHandler(caplog.handler)
        assert "report: has no photos: give --images DIR (a folder or a zip), or name it in the config" in caplog.text

    def test_two_lakes_do_not_share_a_report(self, made: tuple[Lake, Path, Summary], tmp_path: Path) -> None:
        lake, out, _ = made
        other = out.parent / "lake2"
        with pytest.raises(ConfigError, match=re.escape(f"holds the report of the lake {lake.root}; name another")):
            check_report(LakeConfig(path=str(other)), str(out))
        assert check_report(lake.config, str(out)) == out
        # Moved together they still belong together, and what is left of a lake that is gone may be replaced.
        shutil.copytree(out / "data", tmp_path / "out" / "data")
        (tmp_path / "lake").mkdir()
        assert check_report(LakeConfig(path=str(tmp_path / "lake")), str(tmp_path / "out")) == tmp_path / "out"
        (tmp_path / "lake").rename(tmp_path / "lake3")
        assert check_report(LakeConfig(path=str(tmp_path / "lake3")), str(tmp_path / "out")) == tmp_path / "out"


class TestTitles:
    """New titles in the lake and on the page, without anything else being written again."""

    @pytest.fixture
    def copied(self, made: tuple[Lake, Path, Summary], tmp_path: Path) -> Path:
        """The lake and its report, to be changed."""
        for name in ("lake", "out"):
            shutil.copytree(made[1].parent / name, tmp_path / name)
        return tmp_path

    def test_the_command(self, copied: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
        report = copied / "out"
        before = {p: p.read_bytes() for p in report.rglob("*") if p.is_file()}
        file = copied / "titles.yaml"
        file.write_text(
            "set0-pca50 kmeans k=6:\n  1: 'Fire <engines>'\n  2: {title: Vans, description: Of the depot.}\n"
        )
        options = ["--lake", str(copied / "lake"), "--titles", str(file)]
        assert cli.main(["titles", *options, "--report", str(report)]) == 0
        out = capsys.readouterr().out
        assert "people have named 2 clusters" in out
        assert f"report: {{titles: {file}}}" in out
        lake = Lake(spark, LakeConfig(path=str(copied / "lake"), format="parquet"))
        rows = {r["cluster"]: r for r in lake.rows("clusters", model_id=[f"{0:016x}"])}
        assert (rows[1]["title"], rows[1]["title_from"], rows[2]["description"]) == (
            "Fire <engines>", "people", "Of the depot."
        )  # fmt: skip
        # A second file adds to the first, or takes its place.
        file.write_text("set0-pca50 kmeans k=6:\n  3: Night\n")
        assert cli.main(["titles", *options, "--report", str(report), "--add"]) == 0
        rows = {r["cluster"]: r for r in lake.rows("clusters", model_id=[f"{0:016x}"])}
        assert [rows[c]["title"] for c in (1, 2, 3)] == ["Fire <engines>", "Vans", "Night"]
        assert rows[2]["description"] == "Of the depot."
        html = (report / "index.html").read_text()
        assert html.count("Fire &lt;engines&gt;") >= 2
        assert "named by people" in html
        assert "Fire \\u003cengines>" in (report / "data" / "charts.js").read_text()
        assert "1  Fire <engines>" in (report / "figures" / "cluster_sizes.csv").read_text()
        changed = {p.name for p, data in before.items() if p.read_bytes() != data}
        assert changed == {"index.html", "page.json", "charts.js", "cluster_sizes.png", "cluster_sizes.csv",
                           "dendrogram.png"}  # fmt: skip
        assert {p for p in report.rglob("*") if p.is_file()} == set(before)

    def test_what_it_refuses(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file, lake = copied / "t.yaml", str(copied / "lake")
        file.write_text("set0-pca50 k=6:\n  1: x\n")
        assert cli.main(["titles", "--lake", lake]) == 2
        assert "--titles: is missing" in capsys.readouterr().err
        assert cli.main(["titles", "--lake", lake, "--titles", str(file), "--report", str(copied / "out")]) == 2
        # A tree of the same feature set has as many clusters.
        assert "set0-pca50 k=6: 2 models are called so; name one of them" in capsys.readouterr().err
        file.write_text("set1-pca50 k=6:\n  1: x\n")
        assert cli.main(["titles", "--lake", lake, "--titles", str(file), "--report", str(copied)]) == 2
        assert "holds no report whose titles can be changed" in capsys.readouterr().err

    def test_the_file_beside_the_page_is_one_of_titles(self, made: tuple[Lake, Path, Summary], tmp_path: Path) -> None:
        text = (made[1] / "titles.yaml").read_text()
        assert load_overrides(str(made[1] / "titles.yaml")) == {}
        edited = tmp_path / "titles.yaml"
        edited.write_text(text.replace('  # 3: "Black"', '  3: "Night"', 1))
        (key,) = load_overrides(str(edited)).items()
        assert key == (("set0-pca50 k=6", 3), Override("Night"))


class TestGaps:
    @pytest.mark.parametrize("name", gaps())
    def test_what_they_say_is_a_config(self, name: str) -> None:
        features = {"features": [{"descriptor": "NAME", "steps": [{"pca": 50}]}, {"descriptor": "b"}]}
        config = yaml.safe_load(gaps()[name]["config"])
        parsed = parse_config({"lake": {"path": "x"}} | features | config)
        assert parsed.lake.path == "x"


class TestPalette:
    def test_a_cluster_of_a_known_colour_is_drawn_in_it(self) -> None:
        drawn = palette.palette_of({0: "red", 1: None, 2: "Yellow", 3: "gray", 4: "red", 5: "mauve"})
        assert (drawn[0], drawn[2], drawn[3]) == tuple(palette.NAMED[c] for c in ("red", "yellow", "grey"))
        assert len(set(drawn.values())) == 6
        # Those without a name keep away from those with one.
        assert "#B8A800" not in (drawn[1], drawn[5])
        assert palette.palette_of({0: None, 1: None}) == {0: palette.COLOURS[0], 1: palette.COLOURS[1]}
        assert palette.colour_of(-1, drawn) == palette.GREY
        assert palette.palette_of({}) == {}

    def test_shades_of_one_colour_differ_on_both_grounds(self) -> None:
        for name in palette.NAMED:
            shades = list(palette.palette_of(dict.fromkeys(range(5), name)).values())
            assert len(set(shades)) == 5, name
            assert len({palette.on_dark().get(colour, colour) for colour in shades}) == 5, name

    def test_the_turning_map_keeps_clusters_apart(self, tmp_path: Path) -> None:
        """Of a palette of the first frame a small cluster behind a large one of a like colour was a part of it."""
        rng = np.random.default_rng(0)
        xyz = np.vstack([rng.normal(size=(3000, 3)), rng.normal(size=(12, 3)) * 0.1 - [4.5, 0, 1]]).astype(np.float32)
        clusters = np.repeat([0, 2], [3000, 12]).astype(np.int32)
        named = {0: "#0072B2", 2: "#009E73"}
        shown = maps.Map("set", "umap3", "UMAP, 3-D", xyz, clusters, palette=named)
        draw_turning(shown, tmp_path / "turning.gif", frames=4, pixels=200)
        with Image.open(tmp_path / "turning.gif") as gif:
            gif.seek(1)
            there = {tuple(colour) for colour in np.asarray(gif.convert("RGB")).reshape(-1, 3).tolist()}
        for colour in named.values():
            rgb = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
            tints = [tuple(round(v + (255 - v) * at / 8) for v in rgb) for at in range(6)]
            assert any(tint in there for tint in tints), colour

    def test_numbers_of_three_dimensions_lie_in_the_middle(self) -> None:
        xyz = np.random.default_rng(1).normal(size=(600, 3)) + 10 * (np.arange(600) % 2)[:, None]
        xyz[3] = np.nan
        found = maps.label_medians(xyz, np.arange(600) % 2)
        assert np.allclose(found[0], np.median(xyz[::2], axis=0))
        assert maps.label_medians(xyz, np.full(600, -1)) == {}


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any, made: tuple[Lake, Path, Summary]) -> Iterator[Callable[..., Any]]:
    """Opens the report, and fails the test for errors on the console and for requests beyond the folder."""
    errors: list[str] = []
    pages = []

    def open_page(**options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        pages.append(context)
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on(
            "request", lambda r: errors.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
        )
        page.goto((made[1] / "index.html").as_uri(), wait_until="load")
        return page

    yield open_page
    for context in pages:
        context.close()
    assert errors == []


def with_all_cards(page: Any) -> Any:
    """The page with the text of cards that are off the screen too, which a browser otherwise leaves out."""
    page.add_style_tag(content=".card { content-visibility: visible !important; }")
    return page


def see(page: Any, selector: str) -> Any:
    found = page.locator(selector)
    found.scroll_into_view_if_needed()
    return found


class TestPage:
    def test_the_labels_are_on_the_first_screen(self, opened: Callable[..., Any]) -> None:
        page = opened()
        assert (
            page.locator("h1").inner_text()
            == "Of the photos, 90 % have an accepted color and 0 % have an accepted view"
        )
        box = page.locator(".facts").first.bounding_box()
        assert box["y"] + box["height"] < 900
        facts = page.locator("#attribute-0 .facts").inner_text()
        for fact in (
            "88 % of all labels are right", "76 % to 95 % (95 % interval). On photos nobody looked at the "
            "probabilities promise 81 %. Learned from 50 looks, by a linear",
            "90 % of the photos are accepted", "30 photos are left for people", "97 % of the accepted labels are right",
            "78 of 80 looks found them right: 91 % to 99 % (95 % interval). Verdict: more looks.",
        ):  # fmt: skip
            assert fact in facts
        values = page.locator("#attribute-0 .values li")
        assert values.count() == K
        assert values.locator("img").count() == K
        assert values.first.locator("strong").inner_text() == EVIL_VALUE
        assert "by audit 100 % (83 % to 100 %, 20 looks) right: more looks" in values.nth(1).inner_text()
        see(page, "#attribute-0 .matrix")
        cells = page.locator("#attribute-0 .matrix tbody td").all_inner_texts()
        assert cells == ["20", "5", "", "25"]

    def test_the_other_attribute_is_behind_its_tab(self, opened: Callable[..., Any]) -> None:
        page = opened()
        assert not page.locator("#attribute-1").is_visible()
        page.locator("#labels button", has_text="view").click()
        assert not page.locator("#attribute-0").is_visible()
        facts = page.locator("#attribute-1 .facts").inner_text()
        assert "No probability is high enough for 95 % right labels: more looks are needed." in facts
        assert "No audit yet" in facts
        assert page.locator("#attribute-1 .values img").count() == 0
        assert page.locator("#attribute-1 .values strong").all_inner_texts() == ["front", "rear"]
        assert "Of 1 photo people say that it cannot be told." in page.locator("#attribute-1").inner_text()
        left = page.locator("#attribute-1 .gallery li")
        assert left.count() > 8
        texts = left.locator("p:not(.path)").all_inner_texts()
        kinds = ("{}, 60 % sure", "an outlier, {} perhaps")
        assert {kind.format(value) for kind in kinds for value in ("front", "rear")} == set(texts)

    def test_the_verdict_comes_next(self, opened: Callable[..., Any]) -> None:
        page = opened()
        assert page.locator("#verdict h2").inner_text() == (
            "The clustering to trust: KMeans with 6 clusters on set0-pca50"
        )
        assert page.locator("#verdict .strip li").count() == K

    def test_hostile_names_stay_text(self, opened: Callable[..., Any]) -> None:
        page = opened()
        page.locator("#outliers").scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        assert page.evaluate("window.hacked") is None
        assert page.locator("#outliers .path").first.text_content() == f"veriwild/1/00000/{EVIL}.jpg"
        assert EVIL_VEHICLE in page.locator("#clusters table").inner_text()

    def test_hostile_titles_stay_text_when_pointed_at(self, opened: Callable[..., Any]) -> None:
        page = opened()
        see(page, "[data-chart=cluster_sizes]")
        bars = page.locator("[data-chart=cluster_sizes] .js-plotly-plot").first
        bars.locator(".bars .point").first.wait_for()
        title = bars.evaluate("plot => plot.data[0].hovertext.find(t => t.includes('hacked'))")
        at = bars.evaluate("plot => plot.data[0].hovertext.findIndex(t => t.includes('hacked'))")
        assert "<" not in title
        bars.locator(".bars .point path").nth(at).hover(force=True)
        told = bars.locator(".hoverlayer .hovertext")
        told.wait_for()
        assert EVIL_TITLE in told.text_content()

    def test_filters(self, opened: Callable[..., Any]) -> None:
        page = opened()
        shown = page.locator("#shown")
        assert shown.inner_text() == f"{N_MODELS} of {N_MODELS} models"
        assert page.locator("#board tbody tr:visible").count() == 25
        page.select_option("#filters select[name=features]", "set3-pca50")
        page.fill("#filters input[name=low]", "4")
        page.fill("#filters input[name=high]", "6")
        assert shown.inner_text() == f"3 of {N_MODELS} models"
        page.fill("#filters input[name=text]", "no such model")
        assert page.locator("#board tbody tr:visible").count() == 0
        page.locator("#filters").evaluate("form => { form.reset(); form.dispatchEvent(new Event('input')); }")
        page.check("#filters input[name=ranked]")
        assert shown.inner_text() == f"113 of {N_MODELS} models"
        page.click("#more")
        assert page.locator("#board tbody tr:visible").count() == 113

    def test_sorting_by_mouse_and_keyboard(self, opened: Callable[..., Any]) -> None:
        page = opened()
        head = page.locator("#board th", has_text="Vehicle agreement")
        cells = "rows => rows.map(r => r.cells[6].dataset.v).filter(v => v !== undefined).map(Number)"
        rows = page.locator("#board tbody tr")
        head.locator("button").click()
        up = rows.evaluate_all(cells)
        assert head.get_attribute("aria-sort") == "ascending"
        assert up == sorted(up)
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert rows.evaluate_all(cells) == up[::-1]
        # What has no value is last either way.
        assert rows.last.locator("td").nth(6).inner_text() == "–"
        assert page.locator("#board th[aria-sort]").count() == 1

    def test_the_skip_link_comes_first(self, opened: Callable[..., Any]) -> None:
        page = opened()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"

    def test_curves_are_drawn(self, opened: Callable[..., Any]) -> None:
        page = opened()
        see(page, "#curves")
        page.locator("[data-chart=scores-vehicle_agreement] .js-plotly-plot .trace").first.wait_for()
        page.locator("button", has_text="Davies-Bouldin").last.click()
        page.locator("[data-chart=scores-davies_bouldin] .js-plotly-plot .trace").first.wait_for()
        assert not page.locator("[data-chart=scores-vehicle_agreement]").is_visible()
        see(page, "[data-chart=dendrogram]")
        page.locator("[data-chart=dendrogram] .js-plotly-plot .trace").first.wait_for()

    def test_pointing_at_the_map_shows_the_photo(self, opened: Callable[..., Any]) -> None:
        page = opened()
        plot = see(page, "#map2 .plot")
        page.locator("#map2 .toggles button").first.wait_for(timeout=60_000)
        assert page.locator("#map2 .toggles button").count() == K
        box = plot.bounding_box()
        where = page.evaluate(
            """() => {
                const map = document.querySelector('#map2').map, plot = map.plot, full = plot._fullLayout;
                const x = plot.data[1].x[3], y = plot.data[1].y[3];
                return [full._size.l + full.xaxis.d2p(x), full._size.t + full.yaxis.d2p(y)];
            }"""
        )
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.move(box["x"] + where[0], box["y"] + where[1], steps=4)
        page.locator("#peek").wait_for(state="visible")
        image = page.locator("#peek .photo").evaluate("node => getComputedStyle(node).backgroundImage")
        assert re.search(r"photos/sheet-000\.jpg", image)
        assert page.locator("#peek .path").inner_text().startswith("veriwild/")
        page.mouse.move(5, 5)
        page.locator("#peek").wait_for(state="hidden")

    def test_a_cluster_alone_and_other_maps(self, opened: Callable[..., Any]) -> None:
        page = opened()
        see(page, "#map2")
        page.locator("#map2 .toggles button").first.wait_for(timeout=60_000)
        colours = "document.querySelector('#map2').map.plot.data.flatMap(t => [...t.marker.color])"
        assert len(set(page.evaluate(colours))) == K
        page.locator("#map2 .toggles button").nth(1).click()
        page.wait_for_function(f"new Set({colours}).size === 2")
        assert page.locator("#map2 .toggles [aria-pressed=true]").count() == 1
        page.select_option("#map2 select[name=features]", label="set5-pca50")
        page.select_option("#map2 select[name=method]", "umap2")
        page.wait_for_function("document.querySelector('#map2 .caption').textContent.includes('0.930')")
        page.select_option("#map2 select[name=colour]", "outliers")
        page.wait_for_function("document.querySelectorAll('#map2 .toggles button').length === 2")

    @pytest.mark.parametrize("dims", [2, 3])
    def test_a_map_is_shown_whole_on_demand(self, opened: Callable[..., Any], dims: int) -> None:
        page = opened()
        see(page, f"#map{dims}")
        page.locator(f"#map{dims} .toggles button").first.wait_for(timeout=60_000)
        whole = page.locator(f"#map{dims} .whole")
        assert not whole.is_visible()
        # As if points above 0 lay far off.
        page.evaluate(
            """dims => {
                const map = document.querySelector(`#map${dims}`).map, found = map.shown.found;
                found.frame = found.xyz.map(values => [Math.min(...values) - 1, 0]);
                return map.show();
            }""",
            dims,
        )
        axes = "_fullLayout.scene" if dims == 3 else "_fullLayout"
        shown = f"document.querySelector('#map{dims}').map.plot.{axes}.xaxis.range[1]"
        assert page.evaluate(shown) == 0
        caption = page.locator(f"#map{dims} .caption")
        assert re.search(rf"\d+ of {N_IMAGES} points lie outside the frame\.$", caption.inner_text())
        whole.click()
        page.wait_for_function(f"{shown} > 1")
        assert whole.get_attribute("aria-pressed") == "true"
        assert "outside" not in caption.inner_text()
        whole.click()
        page.wait_for_function(f"{shown} === 0")

    def test_the_third_dimension_turns(self, opened: Callable[..., Any]) -> None:
        page = opened()
        see(page, "#map3")
        page.locator("#map3 .toggles button").first.wait_for(timeout=60_000)
        eye = "document.querySelector('#map3').map.plot._fullLayout.scene.camera.eye.x"
        before = page.evaluate(eye)
        page.locator("#map3 .turn").click()
        page.wait_for_function(f"Math.abs({eye} - {before}) > 0.05")
        page.locator("#map3 .turn").click()
        assert page.locator("#map3 .turn").get_attribute("aria-pressed") == "false"

    def test_links_of_the_menu_lead_there(self, opened: Callable[..., Any]) -> None:
        """What is above takes its room only as it is seen."""
        page = opened()
        for section in ("outliers", "maps", "clusters"):
            page.click(f"nav a[href='#{section}']")
            at = f"document.getElementById('{section}').getBoundingClientRect().top"
            # And stays there, for two seconds on end: charts above that are still being drawn move it until then.
            stays = f"window.stayed = 0 <= {at} && {at} < 120 ? (window.stayed || 0) + 1 : 0, window.stayed >= 20"
            page.evaluate("window.stayed = 0")
            page.wait_for_function(stays, polling=100, timeout=60_000)

    def test_a_title_says_where_it_comes_from_and_how_sure_it_is(self, opened: Callable[..., Any]) -> None:
        page = with_all_cards(opened())
        told = {c: see(page, f"#c-{0:016x}-{c}").inner_text() for c in (0, 1, 5)}
        assert "named by people" in told[0]
        assert "from the photos, measured: fits 90 %" in told[1]
        assert "look at the photos" not in told[1]
        assert "from the photos, measured: fits 70 %, so look at the photos before you use it" in told[5]
        sources = page.locator("#clusters .sources").inner_text()
        assert sources == "Where their titles come from: 5 from the photos, measured; 1 named by people."
        # What it rests on, and all that is known, is folded away.
        assert "Colour: blue on 90 % of 50 measured photos (usually 20 %)." not in told[1]
        card = page.locator(f"#c-{0:016x}-1")
        card.locator("summary").click()
        assert "Colour: blue on 90 % of 50 measured photos (usually 20 %)." in card.inner_text()
        assert "All is blue." in card.inner_text()

    def test_cards_are_short(self, opened: Callable[..., Any]) -> None:
        page = with_all_cards(opened())
        cards = page.locator("[data-tab^=cards-]:not([hidden]) .card")
        assert cards.count() >= K
        for at in range(K):
            assert 10 < len(cards.nth(at).inner_text().split()) < 60

    def test_photos_of_a_cluster_can_be_taken_along(self, opened: Callable[..., Any], made: Any) -> None:
        page = with_all_cards(opened(permissions=["clipboard-read", "clipboard-write"]))
        card = see(page, f"#c-{0:016x}-3")
        link = card.locator("a[download]")
        assert link.inner_text() == "Its 50 photos as CSV"
        file = made[1] / link.get_attribute("href")
        assert len(file.read_text().splitlines()) == 51
        card.locator("summary").click()
        card.locator("button.copy", has_text="Copy 8 paths").first.click()
        paths = page.evaluate("navigator.clipboard.readText()").splitlines()
        assert len(paths) == 8
        assert paths == card.locator("pre.paths").first.inner_text().splitlines()
        assert set(paths) <= set(pd.read_csv(file)["path"])
        command = card.locator(".command code").last.inner_text()
        assert f"model_id = '\"'\"'{0:016x}'\"'\"' AND cluster = 3" in command or f"{0:016x}" in command
        see(page, "#verdict").locator("button.copy").first.click()
        assert page.evaluate("navigator.clipboard.readText()") == f"{0:016x}"

    def test_new_titles_become_a_file_and_a_command(self, opened: Callable[..., Any], tmp_path: Path) -> None:
        page = with_all_cards(opened())
        box = page.locator("#renamed")
        assert not box.is_visible()
        for cluster, title in ((1, 'Fire "engines": <b>all</b>'), (3, "Night")):
            card = see(page, f"#c-{0:016x}-{cluster}")
            card.locator("button.rename").click()
            card.locator("input").fill(title)
            card.locator("input").press("Enter")
            assert card.locator(".title").inner_text() == title
        assert box.locator(".count").inner_text() == "2 new titles."
        assert box.locator(".command code").inner_text().startswith("motorpool titles --lake ")
        with page.expect_download() as download:
            box.locator(".save").click()
        download.value.save_as(tmp_path / "titles.yaml")
        assert download.value.suggested_filename == "titles.yaml"
        assert load_overrides(str(tmp_path / "titles.yaml")) == {
            ("set0-pca50 k=6", 1): Override('Fire "engines": <b>all</b>'), ("set0-pca50 k=6", 3): Override("Night"),
        }  # fmt: skip
        # Escape leaves a title as it is, and all can be taken back.
        card = see(page, f"#c-{0:016x}-2")
        card.locator("button.rename").click()
        card.locator("input").fill("no")
        card.locator("input").press("Escape")
        assert card.locator(".title").inner_text() == "White"
        box.locator(".undo").click()
        assert not box.is_visible()
        assert page.locator(f"#c-{0:016x}-1 .title").inner_text() == "Blue"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_what_is_called_red_is_drawn_red(self, opened: Callable[..., Any], scheme: str) -> None:
        page = opened(color_scheme=scheme)
        see(page, "[data-chart=cluster_sizes]")
        bars = page.locator("[data-chart=cluster_sizes] .js-plotly-plot").first
        bars.locator(".bars .point").first.wait_for(timeout=60_000)
        drawn = bars.evaluate(
            "plot => Object.fromEntries(plot.data[0].y.map((y, i) => [y, plot.data[0].marker.color[i]]))"
        )
        colours = {name.split("  ")[1]: colour for name, colour in drawn.items()}
        on_dark = palette.on_dark() if scheme == "dark" else {}
        for name in ("Blue", "White", "Black", "Yellow"):
            named = palette.NAMED[name.lower()]
            assert colours[name] == on_dark.get(named, named)
        see(page, "#map2")
        page.locator("#map2 .toggles button").first.wait_for(timeout=60_000)
        chip = page.locator("#map2 .toggles button", has_text="Yellow").locator(".chip")
        assert chip.evaluate("node => node.style.getPropertyValue('--c')") == palette.NAMED["yellow"]
        # Numbers tell clusters apart where colours do not.
        numbers = page.evaluate("document.querySelector('#map2').map.plot.layout.annotations.map(a => a.text)")
        assert sorted(numbers) == [f"<b>{c}</b>" for c in range(K)]

    def test_paper_has_all_cards_and_no_buttons(self, opened: Callable[..., Any]) -> None:
        page = opened(color_scheme="dark")
        page.emulate_media(media="print")
        assert page.locator("[data-tab^=cards-]").nth(2).is_visible()
        assert not page.locator("button.copy").first.is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"

    def test_paper_has_all_figures_and_whole_tables(self, opened: Callable[..., Any]) -> None:
        """Also those that were never in view: what is drawn by then is not drawn on paper."""
        page = opened()
        page.set_viewport_size({"width": 700, "height": 900})
        page.emulate_media(media="print")
        assert page.locator(".chart .panels:visible, .map .canvas:visible").count() == 0
        pictures = page.locator("img.printed")
        assert pictures.count() == page.locator(".chart, .map").count() > 3
        loaded = "found => Promise.all(found.map(i => { i.loading = 'eager'; return i.decode(); }))"
        pictures.evaluate_all(loaded)
        shown = "found => found.filter(i => getComputedStyle(i).display === 'block' && i.naturalWidth > 0).length"
        assert pictures.evaluate_all(shown) == pictures.count()
        too_wide = "found => found.filter(t => t.getBoundingClientRect().right > innerWidth).length"
        assert page.locator("table:visible").evaluate_all(too_wide) == 0

    def test_the_most_faithful_map_comes_first(self, opened: Callable[..., Any]) -> None:
        page = opened()
        see(page, "#map2")
        page.locator("#map2 .toggles button").first.wait_for(timeout=60_000)
        names = page.locator("#map2 select[name=method] option").evaluate_all("found => found.map(o => o.value)")
        assert names == ["umap2", "pca2"]

    def test_a_link_opens_the_card_behind_its_tab(self, opened: Callable[..., Any]) -> None:
        page = opened()
        card = page.locator("[data-tab^=cards-]").nth(2).locator(".card").first
        assert not card.is_visible()
        page.evaluate("id => { location.hash = id; }", card.get_attribute("id"))
        card.wait_for(state="visible")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_phone_needs_no_sideways_scrolling(self, opened: Callable[..., Any], scheme: str) -> None:
        page = opened(color_scheme=scheme, device_scale_factor=2)
        page.set_viewport_size({"width": 390, "height": 844})
        for anchor in ("models", "agreement", "maps", "clusters", "outliers", "about"):
            page.locator(f"#{anchor}").scroll_into_view_if_needed()
            page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")

    def test_it_opens_with_few_pictures_and_files(self, opened: Callable[..., Any]) -> None:
        """So that it opens at once: its elements are the tables' own, and photos wait until they are scrolled to."""
        page = opened()
        rows = page.evaluate("document.querySelectorAll('tr').length")
        assert page.evaluate("document.querySelectorAll('*').length") < 40 * rows + 10_000
        assert page.evaluate("document.querySelectorAll('img:not([loading=lazy])').length") <= 20
        assert page.evaluate("performance.getEntriesByType('resource').length") < 40

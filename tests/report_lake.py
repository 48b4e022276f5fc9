"""A made lake for the report: tables with invented numbers that fit together, and photos of one colour each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyspark.sql import SparkSession

from motorpool.config.run import LakeConfig
from motorpool.interpret.evidence import Evidence, Photos, Share
from motorpool.interpret.stored import to_text
from motorpool.kernels.trees.linkage import cut, linkage
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES

#: What a hostile case would put into names.
EVIL = "<script>window.hacked=1</script>"
EVIL_VEHICLE = '"><img src=x onerror="window.hacked=2">'
EVIL_VALUE = "<img src=x onerror=window.hacked=4>"
EVIL_TITLE = "<b onmouseover=window.hacked=3>red</b>"
K = 6
#: The colours of the clusters by name, as photos of the best model's clusters were measured to be.
COLOURS = ("red", "blue", "white", "black", "yellow", "green")
_COLOURS = ("#c03028", "#2858c0", "#e8e8e8", "#282828", "#e0c020", "#30a050")


def make_lake(
    spark: SparkSession, folder: Path, *, images: int = 300, models: int = 870, without: Iterable[str] = ()
) -> Lake:
    """A Parquet lake in ``folder/lake`` with photos below ``folder/photos``; ``without`` leaves tables out."""
    lake = Lake(spark, LakeConfig(path=str(folder / "lake"), format="parquet"))
    made = _Made(images, models)
    for name in made.tables:
        if name in TABLES and name not in without:
            schema = lake.schema(name)
            rows = [{field: row.get(field) for field in schema.fieldNames()} for row in getattr(made, name)()]
            lake.overwrite(name, spark.createDataFrame(rows, schema))
    made.draw_photos(folder / "photos")
    return lake


class _Made:
    """The rows of every table. The best model of each of eight feature sets is its KMeans with six clusters."""

    tables = (
        "images", "feature_sets", "models", "labels", "clusters", "parameters", "k_distances", "agreement", "outliers",
        "outlier_methods", "outlier_reasons", "projections", "projection_methods", "cluster_members", "vehicles",
        "image_labels", "label_sets", "audits",
    )  # fmt: skip

    def __init__(self, images: int, models: int) -> None:
        self.n, self.n_models = images, models
        self.rng = np.random.default_rng(5)
        self.sets = [f"set{i}-pca50" for i in range(8)]
        self.truth = np.arange(images) % K
        self.best = {name: f"{i:016x}" for i, name in enumerate(self.sets)}
        self.tree_model = "ffffffffffffffff"

    def path(self, i: int) -> str:
        special = {0: f"veriwild/1/00000/{EVIL}.jpg", 7: "veriwild/1/00000/broken.jpg", 13: "../outside.jpg"}
        return special.get(i, f"veriwild/{1 + i % 10}/{i // 4:05d}/{i:06d}.jpg")

    def draw_photos(self, root: Path) -> None:
        for i in range(self.n):
            file = root / self.path(i)
            if i in (0, 13, 21):  # not a file's name; outside of the root; missing
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            if i == 7:
                file.write_bytes(b"\xff\xd8 no photo")
            else:
                Image.new("RGB", (90, 60), _COLOURS[self.truth[i]]).save(file, "JPEG")
        Image.new("RGB", (8, 8), "red").save(root.parent / "outside.jpg")

    def images(self) -> Iterator[dict[str, Any]]:
        for i in range(self.n):
            yield {"image_id": i, "path": self.path(i), "vehicle_id": EVIL_VEHICLE if i < 4 else f"{i // 4:05d}"}

    def feature_sets(self) -> Iterator[dict[str, Any]]:
        for i, name in enumerate(self.sets):
            curve = (0.8 ** np.arange(50) * 0.2).tolist() if i % 2 else (0.9 ** np.arange(50) * 0.1).tolist()
            yield {"features": name, "descriptors": ["osnet"], "steps": ["pca: 50"], "n_features": 50,
                   "n_images": self.n, "explained_variance": sum(curve), "explained_variance_curve": curve,
                   "program": []}  # fmt: skip

    def models(self) -> Iterator[dict[str, Any]]:
        left = self.n_models
        for at, name in enumerate(self.sets):
            for k in range(2, 16):
                best = k == K
                yield self._model(
                    self.best[name] if best else f"a{at:x}{k:014x}", name, "kmeans", {"k": str(k)}, k,
                    1000.0 - 20 * k + 900 * best, 4.0 - 0.1 * k - 2 * best, 0.9 - 0.02 * at if best else 0.5 - 0.02 * k,
                )  # fmt: skip
                left -= 1
        cut_of = {"n_clusters": str(K), "linkage": "average", "tree_of": self.tree_model}
        yield self._model(self.tree_model, self.sets[0], "agglomerative", cut_of, K, 700.0, 3.0, 0.3)
        left -= 1
        for i in range(left):
            row = self._model(
                f"d{i:015x}",
                self.sets[i % 8],
                "dbscan",
                {"eps": str(i % 12), "min_samples": str(8 + i)},
                1,
                None,
                None,
                None,
            )
            if i == 0:
                row["n_clusters"] = None  # as a model that failed
            yield row | {"status": "degenerate", "reason": f"it finds one cluster, with {self.n} of {self.n} images"}

    def _model(
        self, model_id: str, features: str, algorithm: str, params: dict[str, str], k: int, ch: float | None,
        db: float | None, agreement: float | None,
    ) -> dict[str, Any]:  # fmt: skip
        return {"model_id": model_id, "features": features, "algorithm": algorithm, "params": params, "n_clusters": k,
                "n_noise": 0, "calinski_harabasz": ch, "davies_bouldin": db, "silhouette": None if ch is None else 0.2,
                "vehicle_agreement": agreement, "agreement_vehicles": 75, "vehicle_part": "whole", "status": "ok",
                "seconds": 1.0, "backend": "cpu"}  # fmt: skip

    def _shown(self) -> list[str]:
        return [*self.best.values(), self.tree_model]

    def labels(self) -> Iterator[dict[str, Any]]:
        for model_id in self._shown():
            for i in range(self.n):
                yield {"model_id": model_id, "image_id": i, "cluster": int(self.truth[i]), "distance": 1.0}

    def clusters(self) -> Iterator[dict[str, Any]]:
        for model_id in self._shown():
            for c in range(K):
                own = [i for i in range(self.n) if self.truth[i] == c]
                title = None if c == 5 else EVIL_TITLE if c == 0 else f"colour {c}"
                found = {"model_id": model_id, "cluster": c, "size": len(own), "share": len(own) / self.n,
                         "centroid": [0.0], "exemplars": own[:8], "title": title, "description": None}  # fmt: skip
                if model_id == self.best[self.sets[0]]:
                    found |= self._measured(model_id, c, len(own))
                yield found

    def _measured(self, model_id: str, c: int, size: int) -> dict[str, Any]:
        """What an interpretation says of a cluster: its colour, and three of four photos of the sixth have it."""
        share = 35 if c == 5 else 45
        evidence = Evidence(model_id, c, size, size / self.n, Photos(50), [Share(COLOURS[c], share, 50, 0.2)])
        if c == 0:
            return {"title_from": "people", "evidence": to_text(evidence)}
        return {"title": COLOURS[c].capitalize(), "description": f"All is {COLOURS[c]}.", "title_from": "photos",
                "title_share": share / 50, "evidence": to_text(evidence)}  # fmt: skip

    def parameters(self) -> Iterator[dict[str, Any]]:
        points = self.rng.normal(size=(K, 3))[np.arange(60) % K] * 8 + self.rng.normal(size=(60, 3))
        merges = linkage(points, np.full(60, self.n / 60), "average")
        for name, values in (("merges", merges), ("clusters", cut(merges, K).astype(float))):
            shape = list(values.shape)
            yield {"model_id": self.tree_model, "field": name, "shape": shape, "values": values.ravel().tolist()}

    def k_distances(self) -> Iterator[dict[str, Any]]:
        for at, name in enumerate(self.sets[:3]):
            for k in (5, 20):
                for q in range(101):
                    yield {"features": name, "metric": "euclidean", "k": k, "quantile": q / 100,
                           "distance": (1 + at) * (k + q**2 / 900), "knee": q == 80}  # fmt: skip

    def agreement(self) -> Iterator[dict[str, Any]]:
        for i, a in enumerate(self.sets):
            for j, b in enumerate(self.sets[:i]):
                yield {"model_a": self.best[b], "model_b": self.best[a], "features_a": b, "features_b": a,
                       "ari": 1 / (1 + abs(i - j)), "nmi": 0.5, "n_images": self.n}  # fmt: skip

    def outliers(self) -> Iterator[dict[str, Any]]:
        for features, method in (("consensus", "consensus"), (self.sets[0], "lof"), (self.sets[1], "lof")):
            for i in range(self.n):
                yield {"features": features, "method": method, "image_id": i, "score": float(self.n - i),
                       "is_outlier": i < 30}  # fmt: skip

    def outlier_methods(self) -> Iterator[dict[str, Any]]:
        for features, method in (("consensus", "consensus"), (self.sets[0], "lof"), (self.sets[1], "lof")):
            yield {"features": features, "method": method, "params": {"share": "0.1"}, "n_outliers": 30}

    def outlier_reasons(self) -> Iterator[dict[str, Any]]:
        for i in range(30):
            yield {"features": self.sets[0], "method": "lof", "image_id": i,
                   "reason": f"{3 + i} times as far from its neighbours as usual {EVIL}"}  # fmt: skip

    def projections(self) -> Iterator[dict[str, Any]]:
        for name in self.sets:
            centres = self.rng.normal(size=(K, 3)) * 6
            xyz = centres[self.truth] + self.rng.normal(size=(self.n, 3))
            for method, dims in (("pca2", 2), ("umap2", 2), ("umap3", 3)):
                for i, row in enumerate(xyz.tolist()):
                    yield {"features": name, "method": method, "image_id": i, "x": row[0], "y": row[1],
                           "z": row[2] if dims == 3 else None}  # fmt: skip

    def projection_methods(self) -> Iterator[dict[str, Any]]:
        for name in self.sets:
            yield {"features": name, "method": "umap2", "trustworthiness": 0.93, "n_images": self.n, "n_fitted": 200}

    def cluster_members(self) -> Iterator[dict[str, Any]]:
        for c in range(K):
            own = [i for i in range(self.n) if self.truth[i] == c]
            for kind, start in (("exemplar", 0), ("typical", 8), ("borderline", 16)):
                for position, i in enumerate(own[start : start + 8]):
                    yield {"model_id": self.best[self.sets[0]], "cluster": c, "kind": kind, "position": position,
                           "image_id": i, "path": self.path(i)}  # fmt: skip

    def vehicles(self) -> Iterator[dict[str, Any]]:
        for v in range(self.n // 4):
            yield {"model_id": self.best[self.sets[0]], "vehicle_id": EVIL_VEHICLE if v == 0 else f"{v:05d}",
                   "cluster": v % K, "n_photos": 4, "agreement": 0.5 if v < 5 else 1.0,
                   "dissenting": [4 * v, 4 * v + 1] if v < 5 else []}  # fmt: skip

    def image_labels(self) -> Iterator[dict[str, Any]]:
        """`color` by six values, all but every tenth image accepted; nothing is accepted of `view`."""
        names = [EVIL_VALUE, *(f"colour {c}" for c in range(1, K))]
        for i in range(self.n):
            yield {"image_id": i, "attribute": "color", "value": names[self.truth[i]], "probability": 0.97,
                   "accepted": i % 10 > 0, "source": "vehicle"}  # fmt: skip
            # Of one photo people say that it cannot be told.
            told = i < self.n - 1
            yield {"image_id": i, "attribute": "view", "value": ("front" if i % 3 else "rear") if told else None,
                   "probability": 0.6 if told else None, "accepted": False,
                   "source": "probe" if told else "person"}  # fmt: skip

    def label_sets(self) -> Iterator[dict[str, Any]]:
        accepted = sum(i % 10 > 0 for i in range(self.n))
        shared = {"features": [self.sets[0]], "n_looks": 50, "n_images": self.n, "program": [], "candidates": []}
        names = [EVIL_VALUE, "colour 1"]
        yield {"attribute": "color", "method": "probe", "per": "vehicle", "target": 0.95, "classes": names,
               "accuracy": 0.88, "accuracy_low": 0.76, "accuracy_high": 0.95, "expected": 0.81, "threshold": 0.71,
               "n_accepted": accepted, "share_accepted": accepted / self.n,
               "curve": [{"looks": 25, "accuracy": 0.7}, {"looks": 50, "accuracy": 0.88}],
               "confusion": [{"value": names[0], "label": names[0], "n": 20.0},
                             {"value": names[0], "label": names[1], "n": 5.0},
                             {"value": names[1], "label": names[1], "n": 25.0}],
               "created_at": datetime(2026, 1, 1), **shared}  # fmt: skip
        yield {"attribute": "view", "method": "clusters", "per": "image", "target": 0.95, "classes": ["front", "rear"],
               "accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7, "threshold": None, "n_accepted": 0,
               "share_accepted": 0.0, "curve": [], "confusion": [], "created_at": datetime(2026, 1, 1),
               **shared}  # fmt: skip

    def audits(self) -> Iterator[dict[str, Any]]:
        shared = {"attribute": "color", "accepted": True, "confidence": 0.95, "target": 0.95,
                  "created_at": datetime(2026, 1, 2)}  # fmt: skip
        yield {"value": None, "n_images": 270, "n": 80, "right": 78, "accuracy": 0.97, "low": 0.91, "high": 0.99,
               "verdict": "more looks", **shared}  # fmt: skip
        yield {"value": "colour 1", "n_images": 45, "n": 20, "right": 20, "accuracy": 1.0, "low": 0.83, "high": 1.0,
               "verdict": "more looks", **shared}  # fmt: skip

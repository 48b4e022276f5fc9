"""How a model is judged, its rows in ``models``, ``labels``, ``clusters`` and ``parameters``, and writing them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.models import Facts, ModelSpec
from motorpool.config.run import ClusterConfig
from motorpool.kernels.scores import SCORES, Scores, measured
from motorpool.lake.arrow_types import arrow_columns
from motorpool.pipeline.context import Context
from motorpool.spark import blocks
from motorpool.spark.blocks import Batches

#: Labels that wait to be written, at most: some 50 MiB, which took about a minute to make.
WAITING_LABELS = 2**20

_LABELS = "model_id STRING, image_id BIGINT, cluster INT, distance FLOAT, strength FLOAT, outlier_score FLOAT"

Row = Mapping[str, Any]

#: How the reason of a model begins to speak of numbers that are not finite, which no threshold decides.
NOT_COMPUTED = "cannot be computed"


def judge(
    n_clusters: int,
    n_noise: int,
    scores: Scores | None,
    facts: Facts,
    n: int,
    rules: ClusterConfig,
    *,
    sizes: np.ndarray | None = None,
) -> str | None:
    """Why a model cannot be ranked, None where it can.

    ``sizes`` int64[k] are the clusters' of a model without vectors, which nothing is scored in.
    """
    if n_clusters == 0:
        return "it leaves every image as noise"
    if n_clusters == 1:
        return f"it finds one cluster, with {n - n_noise:,} of {n:,} images"
    infinite = not_finite(facts, scores)
    if infinite:
        return f"its {', '.join(infinite)} {NOT_COMPUTED}: values of its feature set are too large or too unequal"
    if n_clusters > rules.max_clusters:
        return f"it finds {n_clusters:,} clusters, more than cluster.max_clusters = {rules.max_clusters:,}"
    if n_clusters < (facts.asked or 0):
        return f"only {n_clusters:,} of {facts.asked:,} clusters hold images: there are too few distinct vectors"
    if n_noise > rules.max_noise_share * n:
        limit = f"cluster.max_noise_share = {rules.max_noise_share:.1%}"
        return f"it leaves {n_noise / n:.1%} of the images as noise, above {limit}"
    if sizes is None:
        if scores is None or not scores.defined:
            return "its scores are not defined: as many clusters as images"
        sizes = scores.sizes
    filled = np.sort(sizes[sizes > 0])
    if len(filled) < len(sizes):
        return f"only {len(filled)} of {len(sizes)} clusters hold images: there are too few distinct vectors"
    which, size = ("second largest", int(filled[-2])) if facts.by_density else ("smallest", int(filled[0]))
    if size < rules.min_cluster_share * n:
        return (
            f"the {which} cluster holds {size:,} images ({size / n:.4%}), "
            f"below cluster.min_cluster_share = {rules.min_cluster_share:.4%}"
        )
    return None


def not_finite(facts: Facts | None, scores: Scores | None) -> list[str]:
    """Names of a model's numbers that are infinite or NaN; ``models`` has nulls for them."""
    numbers = {**_scores_of_fit(facts), **(scores.values if scores else {})}
    return [name for name, value in numbers.items() if value is not None and not math.isfinite(value)]


def _scores_of_fit(facts: Facts | None) -> dict[str, float | None]:
    """The scores that fitting gives, by name; null for those that the model's algorithm does not have."""
    return {name: getattr(facts, name, None) for name in measured("fit")} if facts else {}


def model_row(
    spec: ModelSpec, status: str, reason: str | None, facts: Facts | None = None, **values: Any
) -> dict[str, Any]:
    """A row of ``models``; what is not given is null, and so are numbers that are not finite."""
    names = ("n_clusters", "n_noise", *SCORES, "agreement_vehicles", "warning", "n_iter", "seconds")
    row: dict[str, Any] = dict.fromkeys(names)
    if facts is not None:
        row |= _scores_of_fit(facts) | {"n_iter": facts.n_iter, "seconds": facts.seconds}
    row = {
        **row,
        "model_id": spec.model_id,
        "features": spec.features.name,
        "algorithm": spec.algorithm,
        "params": dict(spec.params) | (facts.found if facts else {}),
        "vehicle_part": spec.features.vehicle_part,
        "backend": facts.backend if facts else "cpu",
        "status": status,
        "reason": reason,
        **values,
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


#: Columns of ``clusters`` that interpreting a model fills in.
UNTITLED: dict[str, Any] = dict.fromkeys(("title", "description", "title_from", "title_share", "given", "evidence"))


def cluster_rows(spec: ModelSpec, facts: Facts, scores: Scores, origin: np.ndarray, n: int) -> Iterable[dict[str, Any]]:
    """Rows of ``clusters`` of a model of ``n`` images; means in ``scores`` are from ``origin`` float64[d]."""
    centres = facts.centres if facts.centres is not None else (scores.means + origin).astype(np.float32)
    for cluster, size in enumerate(scores.sizes.tolist()):
        yield {
            "model_id": spec.model_id,
            "cluster": cluster,
            "size": size,
            "share": size / n,
            "centroid": centres[cluster].tolist(),
            "exemplars": scores.exemplars[cluster],
            **UNTITLED,
        }


def parameter_rows(spec: ModelSpec, facts: Facts) -> Iterable[dict[str, Any]]:
    """Rows of ``parameters``: one for each array that labels new images, flattened."""
    for name, values in facts.parameters.items():
        yield {
            "model_id": spec.model_id,
            "field": name,
            "shape": [int(s) for s in values.shape],
            "values": np.asarray(values, np.float64).reshape(-1).tolist(),
        }


# -- writing ------------------------------------------------------------------------------------------


class Results:
    """Rows of ``labels``, ``clusters``, ``parameters`` and ``models``, which `write` puts into the lake in this order.

    What is in ``models`` is complete: its row comes last, and a model without it is made again. Labels that the driver
    holds wait, until there are WAITING_LABELS of them: a commit costs as much as fitting models on few images does.
    All others are written as they come.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._start_anew()

    def _start_anew(self) -> None:
        self._labels: list[pa.Table] = []
        self._ids: list[str] = []
        self._clusters: list[Row] = []
        self._parameters: list[Row] = []
        self._models: list[Row] = []
        #: Whether labels are in the lake whose models are not.
        self._begun = False

    def add_labels(self, wide: DataFrame, ids: Sequence[str]) -> None:
        """Labels of models from one row per image (`Labelled.wide`)."""
        batches = blocks.held(wide)
        if batches is None:
            write_labels(self._ctx, wide, ids)
            self._begun = True
        else:
            self._labels.append(pa.Table.from_batches(_long(batches, ids), arrow_columns(_LABELS)))
            self._ids += ids

    def add(self, models: Iterable[Row], clusters: Iterable[Row] = (), parameters: Iterable[Row] = ()) -> None:
        """Rows of models whose labels, if they have some, have been added."""
        self._models += models
        self._clusters += clusters
        self._parameters += parameters
        if self._begun or sum(len(labels) for labels in self._labels) > WAITING_LABELS:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        lake, labels, ids = self._ctx.lake, self._labels, self._ids
        rows = {"clusters": self._clusters, "parameters": self._parameters, "models": self._models}
        # What could not be written is not to be tried again.
        self._start_anew()
        if labels:
            lake.replace_rows("labels", pa.concat_tables(labels), {"model_id": ids})
        for table, content in rows.items():
            if content:
                lake.replace_rows(table, content, {"model_id": list(dict.fromkeys(r["model_id"] for r in content))})


def write_models(ctx: Context, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows of ``models`` in the place of those of the same models."""
    ctx.lake.replace_rows("models", rows, {"model_id": [str(r["model_id"]) for r in rows]})


def write_labels(ctx: Context, wide: DataFrame, model_ids: Sequence[str]) -> None:
    """One row per model and image from one row per image (`Labelled.wide`)."""

    def run(batches: Batches) -> Batches:
        return _long(batches, model_ids)

    long = blocks.in_tasks(wide, run, _LABELS)
    ctx.lake.replace("labels", long, {"model_id": list(model_ids)}, ctx.values(len(long.columns) * len(model_ids)))


def _long(batches: Batches, model_ids: Sequence[str]) -> Batches:
    """Rows of ``labels``: of each image those of its models, in their order."""
    names = pa.array(list(model_ids))
    for batch in batches:
        models = pa.array(np.tile(np.arange(len(names)), len(batch)))
        images = pa.array(np.repeat(blocks.batch_ids(batch), len(names)))
        found = (batch.column(column).flatten() for column in ("clusters", "distances", "strengths", "outliers"))
        yield pa.RecordBatch.from_arrays([names.take(models), images, *found], arrow_columns(_LABELS).names)

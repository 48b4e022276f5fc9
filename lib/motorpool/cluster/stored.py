"""Labels for new images from what a lake keeps of a model: the numbers that labelled the study label any other rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.cluster.labelled import Labelled
from motorpool.spark import blocks


@dataclass(frozen=True)
class StoredModel:
    """A model as ``models`` and ``parameters`` keep it: ``params`` as text, ``arrays`` float64 in their shapes.

    ``arrays`` holds at least those that its algorithm names as ``stored``, its own or borrowed.
    """

    model_id: str
    features: str
    algorithm: str
    params: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class NewImages:
    """What an algorithm's ``relabel`` gets: the vectors of new images in blocks, and the model that labels them.

    ``blocks`` are not persisted. ``study_vectors`` reads (image_id, vector) of the images that the model was fitted on,
    ``study_labels`` their labels by the model, rows of the table ``labels``: for algorithms whose arrays are not
    enough.
    """

    blocks: DataFrame
    model: StoredModel
    study_vectors: Callable[[], DataFrame]
    study_labels: Callable[[], DataFrame]
    progress: Callable[[str], None] = lambda text: None


def labels_of_one(labelled: Labelled) -> DataFrame:
    """``image_id, cluster, distance, strength`` by the only model of ``labelled``, computed and persisted.

    Made by the very function that labelled the study, so that the study's own rows get their labels again. (A row at
    the same distance from two centroids, up to float64's rounding, may change sides: a study labels all k of a grid in
    one matrix product, which rounds differently.)
    """
    return blocks.computed(
        labelled.wide().select(
            "image_id",
            F.get("clusters", F.lit(0)).alias("cluster"),
            F.get("distances", F.lit(0)).alias("distance"),
            F.get("strengths", F.lit(0)).alias("strength"),
        )
    )

"""Labels of Gaussian mixtures: the component of every image, how sure that is, and how likely the image is at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from motorpool.cluster.labelled import Labelled, LabelledBlock
from motorpool.cluster.mixtures.mixture import Mixture
from motorpool.kernels.centroids.gaussians import Density, Parameters, responsibilities
from motorpool.spark import blocks


class MixtureLabeller:
    """Labels rows by one mixture. ValueError for one that failed."""

    def __init__(self, mixture: Mixture) -> None:
        if mixture.failure:
            raise ValueError(f"this mixture has no labels: {mixture.failure}")
        # The weighted mean of a mixture is the mean of the rows it was fitted on.
        self.centre = mixture.weights @ mixture.means
        absolute = Parameters(mixture.covariance_type, mixture.weights, mixture.means, mixture.covariances)
        self.density = Density(absolute.moved(-self.centre))

    def label(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For float32[n, d] rows: int32[n] components with the largest responsibility (the lower number where two
        are equal), float32[n] that responsibility, and float64[n] log densities, low for outliers."""
        log_joint = self.density.log_joint(x - self.centre)
        share, log_density = responsibilities(log_joint)
        # Two shares may both round to the same number where their logarithms still differ.
        component = log_joint.argmax(axis=1)
        largest = share[np.arange(len(x)), component]
        return component.astype(np.int32), largest.astype(np.float32), log_density


def by_mixtures(block_df: DataFrame, mixtures: Sequence[Mixture]) -> Labelled:
    """Every image's component in each mixture; ``strength`` is its responsibility, the outlier
    score minus the log density."""
    labellers = [MixtureLabeller(m) for m in mixtures]

    def label(batch: pa.RecordBatch) -> Iterator[LabelledBlock]:
        for ids, x in blocks.block_arrays(batch):
            found = [labeller.label(x) for labeller in labellers]
            labels, strengths, densities = (np.stack(column, axis=1) for column in zip(*found, strict=True))
            yield LabelledBlock(ids, x, labels, strengths=strengths, outliers=-densities.astype(np.float32))

    return Labelled(block_df, label, tuple(m.n_components for m in mixtures), labellers[0].centre)

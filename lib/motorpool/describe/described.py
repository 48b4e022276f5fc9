"""The descriptors of a case that are computed from its photos."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.case import files
from motorpool.case.folder import Case
from motorpool.case.photo_files import open_photo_files
from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.run import CaseConfig
from motorpool.describe.built_in import built_in
from motorpool.describe.describer import Describer
from motorpool.describe.network import open_network
from motorpool.errors import CaseError
from motorpool.photos.source import find_images


@dataclass(frozen=True)
class PhotoDescriptor:
    """A descriptor whose vectors are computed; ``rows`` (`photo_vectors.SCHEMA`) holds those of all images.

    Images without a vector are its bad rows, whatever ``on_bad_rows`` says of the rows of files.
    """

    name: str
    shape: tuple[int, int]
    fingerprint: str
    rows: DataFrame
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))

    def vectors(self, *, refuse: bool) -> DataFrame:
        """``image_id, vector`` of the images that have one."""
        return self.rows.where("problem IS NULL").select("image_id", "vector")

    def bad_rows(self) -> DataFrame:
        """``image_id, reason`` of the others."""
        return self.rows.where("problem IS NOT NULL").select("image_id", F.col("problem").alias("reason"))

    def check_keys(self) -> None:
        """Rows are the images' own."""


def open_describer(source: NetworkConfig | BuiltInConfig) -> Describer:
    """How a descriptor is computed; CaseError and EnvironmentMissingError where it cannot be."""
    return open_network(source) if isinstance(source, NetworkConfig) else built_in(source)


def open_describers(case: Case, names: Collection[str] | None = None) -> dict[str, Describer]:
    """How the descriptors of a case, or some of them, are computed that come from photos."""
    return {
        name: open_describer(source)
        for name, source in case.descriptors.items()
        if isinstance(source, NetworkConfig | BuiltInConfig) and (names is None or name in names)
    }


def photos_of(config: CaseConfig, computed: Collection[str]) -> str:
    """Where the photos lie that some descriptors are ``computed`` from; CaseError where the case has none.

    A hostile or damaged archive of this machine is refused here.
    """
    root = find_images(config)
    if root is None:
        raise CaseError(
            f"case.descriptors.{min(computed)}: is computed from photos, but case.images_root names none, and the case "
            "folder holds none: name the folder, zip, tar or table in which they lie"
        )
    if files.local_path(root) is not None:
        open_photo_files(root)
    return root


def described(describers: Mapping[str, Describer], n_images: int, rows: DataFrame) -> dict[str, PhotoDescriptor]:
    """Descriptors by name, of ``rows`` that hold the vectors of all of them."""
    return {
        name: PhotoDescriptor(d.name, (n_images, d.width), d.fingerprint, rows.where(F.col("descriptor") == name))
        for name, d in describers.items()
    }

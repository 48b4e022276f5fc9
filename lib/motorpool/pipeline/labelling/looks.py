"""What people said about photos, one answer a photo: the newest of every annotator, where the annotators agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from motorpool.config.labels import AttributeConfig
from motorpool.errors import ConfigError
from motorpool.pipeline.context import Context

#: Codes of photos without a value: people cannot tell it, or they disagree.
UNCLEAR, DISAGREED = -1, -2


@dataclass(frozen=True)
class Looks:
    """What people said about one attribute, to learn from: annotations of audits are not among it.

    ``photos`` has image_id, vehicle_id (None: not known) and code (int64: the position in ``values``, UNCLEAR or
    DISAGREED), a photo once, by id. ``vehicles`` has the code by vehicle_id where the vehicles' photos share the value:
    DISAGREED where photos of one were given different values. Memory: what people looked at, some 100 bytes a photo.
    """

    attribute: str
    values: tuple[str, ...]
    photos: pd.DataFrame
    vehicles: pd.Series
    fingerprint: str

    @property
    def usable(self) -> pd.DataFrame:
        """The photos with a value, of vehicles on which people agree."""
        known = self.photos[self.photos["code"] >= 0]
        bad = self.vehicles.index[self.vehicles == DISAGREED]
        return known[~known["vehicle_id"].isin(bad)]

    @property
    def n_unclear(self) -> int:
        return int((self.photos["code"] == UNCLEAR).sum())

    @property
    def n_disagreed(self) -> int:
        return int((self.photos["code"] == DISAGREED).sum()) + int(
            ((self.photos["code"] >= 0) & ~self.photos.index.isin(self.usable.index)).sum()
        )


def read_looks(ctx: Context, attributes: Mapping[str, AttributeConfig]) -> dict[str, Looks]:
    """The looks at each attribute, by its name, in the config's order; those without any are left out.

    ConfigError where annotations name values that the config does not.
    """
    if not ctx.lake.exists("annotations"):
        return {}
    columns = ("image_id", "attribute", "value", "annotator", "created_at")
    rows = ctx.lake.read("annotations", attribute=list(attributes)).where("purpose = 'train'").select(*columns)
    images = ctx.lake.read("images").select("image_id", "vehicle_id")
    annotations = rows.join(images, on="image_id", how="inner").toPandas()
    found = {}
    for name, config in attributes.items():
        own = annotations[annotations["attribute"] == name]
        if len(own):
            found[name] = _resolve(name, config, own)
    return found


def _resolve(name: str, config: AttributeConfig, annotations: pd.DataFrame) -> Looks:
    """One answer a photo. The newest answer of each annotator counts; of two at the same time, the later by name."""
    values = config.values or tuple(sorted(annotations["value"].dropna().unique()))
    strange = annotations.loc[annotations["value"].notna() & ~annotations["value"].isin(values), "value"]
    if len(strange):
        raise ConfigError(
            f"labels.attributes.{name}.values: lacks {strange.iloc[0]!r}, which {len(strange):,} annotations say: add "
            "it to the values, or leave the key out to take those of the annotations"
        )
    code = pd.Categorical(annotations["value"], categories=list(values)).codes.astype(np.int64)
    coded = annotations.assign(code=code, annotator=annotations["annotator"].fillna(""))
    order = coded.sort_values(["image_id", "annotator", "created_at", "code"], kind="stable")
    last = order.drop_duplicates(["image_id", "annotator"], keep="last")
    by_image = last.groupby("image_id", sort=True)
    photos = pd.DataFrame(
        {
            "vehicle_id": by_image["vehicle_id"].first(),
            "code": np.where(by_image["code"].nunique() > 1, DISAGREED, by_image["code"].first()),
        }
    ).reset_index()
    vehicles = pd.Series(dtype=np.int64)
    if config.per == "vehicle":
        known = photos[(photos["code"] >= 0) & photos["vehicle_id"].notna()].groupby("vehicle_id")["code"]
        vehicles = known.first().where(known.nunique() == 1, DISAGREED)
    content = last[["image_id", "annotator", "code"]].to_csv(index=False)
    fingerprint = hashlib.sha256(f"{values}{content}".encode()).hexdigest()[:16]
    return Looks(name, values, photos, vehicles, fingerprint)


def answers_of_images(ctx: Context, looks: list[Looks]) -> DataFrame:
    """What people said, for `label_images`: ``image_id, attribute, code, own``.

    A photo of which people cannot tell the value has that of its vehicle, where that is known.
    """
    own, shared = [], []
    for item in looks:
        photos = item.photos.assign(attribute=item.attribute)
        of_vehicle = photos["vehicle_id"].map(item.vehicles.to_dict())
        covered = of_vehicle.notna() & ((photos["code"] == UNCLEAR) | (of_vehicle == DISAGREED))
        own.append(photos.loc[~covered, ["image_id", "attribute", "code"]])
        shared.append(
            pd.DataFrame(
                {"vehicle_id": item.vehicles.index, "attribute": item.attribute, "code": item.vehicles.to_numpy()}
            ).astype({"vehicle_id": str, "attribute": str, "code": np.int64})
        )
    schema = "image_id BIGINT, attribute STRING, code BIGINT"
    direct = ctx.spark.createDataFrame(pd.concat(own), schema).withColumn("own", F.lit(True))
    vehicles = pd.concat(shared)
    if not len(vehicles):
        return direct
    named = ctx.spark.createDataFrame(vehicles, "vehicle_id STRING, attribute STRING, code BIGINT")
    images = ctx.lake.read("images").select("image_id", "vehicle_id")
    others = images.join(named, on="vehicle_id", how="inner").select("image_id", "attribute", "code")
    others = others.join(direct.select("image_id", "attribute"), on=["image_id", "attribute"], how="left_anti")
    return direct.unionByName(others.withColumn("own", F.lit(False)))

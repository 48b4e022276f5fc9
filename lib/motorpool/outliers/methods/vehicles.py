"""The entries of methods that compare a photo with the others of its vehicle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motorpool.outliers.method import OutlierMethod, Scored

if TYPE_CHECKING:
    from pyspark.sql import Column

    from motorpool.outliers.reasons import Words
    from motorpool.outliers.resources import Resources


def _odd_one_out(resources: Resources) -> Scored:
    from pyspark.sql import functions as F

    from motorpool.outliers.odd_one_out import most_typical
    from motorpool.outliers.reasons import NEIGHBOURS

    compared = resources.compared
    # The photo itself may be among its vehicle's typical ones.
    beside = compared.df.join(most_typical(compared, NEIGHBOURS + 1), on="vehicle_id", how="inner")
    others = F.slice(F.array_remove("typical", F.col("image_id")), 1, NEIGHBOURS)
    return Scored(compared.df.select("image_id", "score"), beside.withColumn("neighbours", others))


def _odd_one_out_reason(words: Words) -> Column:
    return words.say("Unlike its vehicle's other photos: its distance to ", words.other_photos, " is ", words.ratio)


def _stray_groups(resources: Resources) -> Scored:
    from motorpool.outliers.stray_groups import stray_groups

    compared = resources.compared
    strays = resources.persist(stray_groups(resources.arranged, resources.found, resources.k, compared))
    return Scored(strays.select("image_id", "score"), strays)


def _stray_groups_reason(words: Words) -> Column:
    return words.say(
        "Probably one kind of bad frame: it looks like ",
        words.formatted("%d", words.n_neighbours),
        " photos of other vehicles (within ",
        words.formatted("%.3g", words.distance),
        "), which are as unlike their own (score ",
        words.ratio,
        ")",
    )


# Not every case names vehicles, so no config asks for these two unless it says so.
ODD_ONE_OUT = OutlierMethod(
    "odd_one_out",
    "odd one out of its vehicle",
    _odd_one_out,
    _odd_one_out_reason,
    default=False,
    needs=frozenset({"vehicles"}),
    may_lack=True,
)
STRAY_GROUPS = OutlierMethod(
    "stray_groups",
    "stray groups",
    _stray_groups,
    _stray_groups_reason,
    default=False,
    needs=frozenset({"vehicles", "neighbours"}),
    settings=("k", "seed"),
    may_lack=True,
)

"""Vehicles chosen by a hash of their name: those that the steps of a feature set were fitted on, and others judge."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from motorpool.features.spec import FIT_SHARE

#: Keeps this choice apart from other uses of a vehicle's hash.
_SALT = "motorpool holdout"


def uniform(vehicle: Column, salt: str) -> Column:
    """DOUBLE in [0, 1): xxHash64 of a vehicle's name modulo 2^32, the same in every case, stage and run.

    ``salt`` keeps one use of a vehicle's hash apart from the others.
    """
    return F.pmod(F.xxhash64(vehicle, F.lit(salt)), F.lit(2**32)) / F.lit(2.0**32)


def fitted_on(vehicle: Column, share: float = FIT_SHARE) -> Column:
    """BOOLEAN: whether vehicle steps are fitted on this vehicle; ``vehicle`` STRING, false where it is null.

    About ``share`` of the vehicles, chosen by a hash of their name alone (`uniform`), so that all vehicles seen under a
    share are seen under a larger one.

    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share}: expected a share of the vehicles, between 0 and 1")
    return vehicle.isNotNull() & (uniform(vehicle, _SALT) < share)

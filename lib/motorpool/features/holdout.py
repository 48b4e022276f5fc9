"""Which vehicles the steps of a feature set were fitted on, so that the others can judge them."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from motorpool.features.spec import FIT_SHARE

#: Keeps this choice apart from other uses of a vehicle's hash.
_SALT = "motorpool holdout"


def fitted_on(vehicle: Column, share: float = FIT_SHARE) -> Column:
    """BOOLEAN: whether vehicle steps are fitted on this vehicle; ``vehicle`` STRING, false where it is null.

    About ``share`` of the vehicles, chosen by a hash of their name alone: the same ones in every case, stage and run,
    and all vehicles seen under a share are seen under a larger one. xxHash64 modulo 2^32, as a number in [0, 1).

    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share}: expected a share of the vehicles, between 0 and 1")
    uniform = F.pmod(F.xxhash64(vehicle, F.lit(_SALT)), F.lit(2**32)) / F.lit(2.0**32)
    return vehicle.isNotNull() & (uniform < share)

"""What is true of a made case: which vehicles there are, and what each photo shows.

Everything later (descriptors, photos, CSV files) is derived from a `Truth`, so they agree with each other.
A `Truth` costs about 20 bytes a photo, 9 MB for 416,314: it alone is held in memory as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int32]

# Shares as on a ring road by day: mostly private cars, few buses. Codes are positions in these tuples.
BODY_TYPES = ("sedan", "hatchback", "suv", "van", "minibus", "pickup", "truck", "bus")
BODY_SHARES = (0.35, 0.13, 0.22, 0.08, 0.05, 0.05, 0.08, 0.04)

COLORS = ("white", "black", "grey", "silver", "red", "blue", "yellow", "green", "brown", "orange")
CAR_COLOR_SHARES = (0.25, 0.22, 0.13, 0.14, 0.08, 0.08, 0.02, 0.02, 0.04, 0.02)
# Vans, minibuses, trucks and buses belong to firms: more white, yellow and blue, hardly any black.
WORK_COLOR_SHARES = (0.36, 0.04, 0.05, 0.08, 0.10, 0.14, 0.10, 0.06, 0.02, 0.05)
WORK_TYPES = ("van", "minibus", "truck", "bus")

VIEWS = ("front", "rear")
VIEW_SHARES = (0.56, 0.44)

LIGHTS = ("day", "dusk", "glare", "rain")
LIGHT_SHARES = (0.58, 0.18, 0.12, 0.12)

# Not in attributes.csv: the structure that a network knowing nothing of vehicles sees most.
CAMERAS = 12

# Code 0 is an ordinary photo, written as an empty field.
OUTLIERS = ("", "night", "branches", "blank", "no_vehicle", "text")
OUTLIER_SHARES = (0.0, 0.32, 0.22, 0.12, 0.18, 0.16)
OUTLIER_RATE = 0.025

# VeRi-Wild has 416,314 photos of 40,671 vehicles.
PHOTOS_PER_VEHICLE = 10.24
# A negative binomial with this many "failures" leaves some vehicles with one photo and a few with forty.
PHOTO_SPREAD = 3

# Rows whose descriptors are far outside everything else, per image; never fewer than two.
EXTREME_RATE = 5e-5

FOLDERS = 10


@dataclass(frozen=True)
class Truth:
    """Vehicles (arrays of length V) and photos (arrays of length n), in the order of the case's rows.

    Folders are ranges of vehicles, in lexicographic order (1, 10, 2, ... 9). Photos of one vehicle are side by side.

    body, color: int8[V], positions in BODY_TYPES and COLORS.
    number: int32[n], the photo's number, from 0 on, which counts over the vehicles in their own order.
    vehicle: int32[n], position of the photo's vehicle.
    view, light, camera, outlier: int8[n], positions in VIEWS, LIGHTS, range(CAMERAS), OUTLIERS.
    extreme: int32[m], the photos whose descriptors went wild, ascending; ordinary photos otherwise.
    """

    seed: int
    body: Codes
    color: Codes
    number: Rows
    vehicle: Rows
    view: Codes
    light: Codes
    camera: Codes
    outlier: Codes
    extreme: Rows

    @property
    def images(self) -> int:
        """Number of photos, n."""
        return len(self.vehicle)

    @property
    def vehicles(self) -> int:
        """Number of vehicles, V."""
        return len(self.body)

    def folder(self, image: int) -> int:
        """The folder, 1 to 10, that holds a photo."""
        return int(_folders(self.vehicle[image : image + 1], self.vehicles)[0])

    def vehicle_id(self, image: int) -> str:
        """Number of the photo's vehicle as the case writes it, unique over all folders."""
        return f"{int(self.vehicle[image]) + 1:05d}"

    def path(self, image: int) -> str:
        """Path of a photo below raw_data/, with forward slashes."""
        return f"veriwild/{self.folder(image)}/{self.vehicle_id(image)}/{int(self.number[image]) + 1:06d}.jpg"


def draw_truth(images: int, seed: int) -> Truth:
    """Draw the vehicles and photos of a case of `images` photos. The same arguments give the same truth."""
    rng = np.random.default_rng([seed, 1])
    counts = _photo_counts(rng, images)
    vehicles = len(counts)
    vehicle = np.repeat(np.arange(vehicles, dtype=np.int32), counts)
    body = _draw(rng, BODY_SHARES, vehicles)
    work = np.isin(body, [BODY_TYPES.index(name) for name in WORK_TYPES])
    color = np.where(work, _draw(rng, WORK_COLOR_SHARES, vehicles), _draw(rng, CAR_COLOR_SHARES, vehicles)).astype(
        np.int8
    )
    outlier = _draw_outliers(rng, images)
    view, light = _draw(rng, VIEW_SHARES, images), _draw(rng, LIGHT_SHARES, images)
    camera = rng.integers(0, CAMERAS, size=images, dtype=np.int8)
    extreme = _draw_extremes(rng, outlier)
    rows = _in_rows(_folders(vehicle, vehicles))
    return Truth(
        seed=seed,
        body=body,
        color=color,
        number=rows,
        vehicle=vehicle[rows],
        view=view[rows],
        light=light[rows],
        camera=camera[rows],
        outlier=outlier[rows],
        extreme=np.flatnonzero(np.isin(rows, extreme)).astype(np.int32),
    )


def _folders(vehicle: Rows, vehicles: int) -> Rows:
    """int32[n], the folder, 1 to 10, of photos by their vehicles: these are spread evenly and in order."""
    return (1 + vehicle.astype(np.int64) * FOLDERS // vehicles).astype(np.int32)


def _in_rows(folder: Rows) -> Rows:
    """int32[n], the photos in the order of the case's rows, of int32[n] folders: 1, 10, 2, ... 9."""
    place = np.argsort(np.argsort([str(f) for f in range(FOLDERS + 1)]))
    return np.argsort(place[folder], kind="stable").astype(np.int32)


def _draw(rng: np.random.Generator, shares: tuple[float, ...], n: int) -> Codes:
    """int8[n] of positions drawn with the given shares."""
    return np.searchsorted(np.cumsum(shares), rng.random(n) * sum(shares), side="right").astype(np.int8)


def _photo_counts(rng: np.random.Generator, images: int) -> npt.NDArray[np.int64]:
    """Photos of each vehicle, at least one, adding up to `images`; the last vehicle takes what is left."""
    more = PHOTOS_PER_VEHICLE - 1.0
    # Half as many again as needed on average: enough but for absurdly small cases, which the loop completes.
    batch = 16 + int(1.5 * images / PHOTOS_PER_VEHICLE)
    counts = np.zeros(0, dtype=np.int64)
    while counts.sum() < images:
        drawn = 1 + rng.negative_binomial(PHOTO_SPREAD, PHOTO_SPREAD / (PHOTO_SPREAD + more), size=batch)
        counts = np.concatenate([counts, drawn])
    ends = np.cumsum(counts)
    last = int(np.searchsorted(ends, images))
    counts = counts[: last + 1].copy()
    counts[last] -= ends[last] - images
    return counts


def _draw_outliers(rng: np.random.Generator, images: int) -> Codes:
    """int8[n], zero for ordinary photos. A case large enough for five outliers has one of every kind."""
    outlier = np.zeros(images, dtype=np.int8)
    amount = round(OUTLIER_RATE * images)
    kinds = _draw(rng, OUTLIER_SHARES, amount)
    if amount >= len(OUTLIERS) - 1:
        kinds[: len(OUTLIERS) - 1] = np.arange(1, len(OUTLIERS))
    outlier[rng.choice(images, size=amount, replace=False)] = kinds
    return outlier


def _draw_extremes(rng: np.random.Generator, outlier: Codes) -> Rows:
    """Ascending int32[m] of ordinary photos; empty only in cases of a few dozen photos."""
    ordinary = np.flatnonzero(outlier == 0)
    amount = max(2, round(EXTREME_RATE * len(outlier))) if len(outlier) >= 50 else 0
    return np.sort(rng.choice(ordinary, size=amount, replace=False)).astype(np.int32)

"""Writing a made case to disk, in exactly the form of the real one.

Nothing is ever whole in memory but the truth (20 bytes a photo); descriptors pass through in blocks. The case
is built in a hidden sibling of its folder and renamed when complete, so a killed run leaves no half case that
someone could take for a whole one.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from motorpool.errors import ConfigError
from motorpool_sample import truth as t
from motorpool_sample.descriptors import DescriptorSource
from motorpool_sample.networks import RECIPES
from motorpool_sample.photos import photo_bytes
from motorpool_sample.pickle_writer import write_pickle_header, write_pickle_trailer

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# Starting processes takes longer than drawing this many photos.
_POOL_FROM = 400
_PHOTOS_A_TASK = 64
ATTRIBUTES_HEADER = "path,vehicle_id,body_type,color,view,outlier"


@dataclass(frozen=True)
class SampleSummary:
    """What was made: where, how many of everything, and how long it took."""

    path: Path
    images: int
    vehicles: int
    outliers: int
    extremes: int
    with_images: bool
    seconds: float


def make_sample_case(
    out: Path,
    images: int,
    seed: int,
    with_images: bool = True,
    progress: Progress | None = None,
) -> SampleSummary:
    """Make a case of `images` photos in the folder `out`, which must be absent or empty.

    The same images and seed give the same bytes, with or without photos. Without photos, 416,314 rows take
    6.2 GB on disk and about 300 MB of memory; a photo adds 7 KB on disk and a few milliseconds.
    `progress` is called with work done and work in all, where a photo, or its row in one descriptor, is 1.
    Raises `ConfigError` for a folder that is not empty, or for numbers that make no case.
    """
    out = Path(out).absolute()
    _check(out, images, seed)
    began = time.perf_counter()
    truth = t.draw_truth(images, seed)
    total = images * (len(RECIPES) + int(with_images))
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        if progress is not None:
            progress(done, total)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    try:
        building.chmod(0o755)  # mkdtemp keeps others out; a case is for everyone
        _write_tables(building, truth)
        _write_descriptors(building / "descriptors", truth, advance)
        _write_photos(building / "raw_data", truth, with_images, advance)
        if out.exists():
            out.rmdir()
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    seconds = time.perf_counter() - began
    log.info("made a case of %d images of %d vehicles in %s (%.1f s)", images, truth.vehicles, out, seconds)
    return SampleSummary(
        path=out,
        images=images,
        vehicles=truth.vehicles,
        outliers=int((truth.outlier > 0).sum()),
        extremes=len(truth.extreme),
        with_images=with_images,
        seconds=seconds,
    )


def _check(out: Path, images: int, seed: int) -> None:
    if images < 1:
        raise ConfigError(f"images = {images}: must be at least 1")
    if seed < 0:
        raise ConfigError(f"seed = {seed}: must be at least 0")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name a folder that is absent or empty for the sample case")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty: name a folder that is absent or empty for the sample case, or delete this one"
        )


def _write_tables(folder: Path, truth: t.Truth) -> None:
    """Write images_paths.csv, as made on Windows, and attributes.csv, row by row."""
    with (
        open(folder / "images_paths.csv", "w", encoding="ascii", newline="") as paths,
        open(folder / "attributes.csv", "w", encoding="ascii", newline="") as attributes,
    ):
        paths.write("paths\r\n")
        attributes.write(ATTRIBUTES_HEADER + "\n")
        for image in range(truth.images):
            vehicle = truth.vehicle[image]
            path = truth.path(image)
            row = (
                path,
                truth.vehicle_id(image),
                t.BODY_TYPES[truth.body[vehicle]],
                t.COLORS[truth.color[vehicle]],
                t.VIEWS[truth.view[image]],
                t.OUTLIERS[truth.outlier[image]],
            )
            paths.write(path.replace("/", "\\") + "\r\n")
            attributes.write(",".join(row) + "\n")


def _write_descriptors(folder: Path, truth: t.Truth, advance: Callable[[int], None]) -> None:
    """Write one pickle a network, block by block."""
    folder.mkdir()
    source = DescriptorSource(truth)
    for recipe in RECIPES:
        with open(folder / f"{recipe.name}.pickle", "wb") as f:
            write_pickle_header(f, (truth.images, recipe.width), "<f4")
            for block in source.blocks(recipe.name):
                f.write(block.astype("<f4", copy=False).data)
                advance(len(block))
            write_pickle_trailer(f)


def _write_photos(folder: Path, truth: t.Truth, with_images: bool, advance: Callable[[int], None]) -> None:
    """Write raw_data/: the folders of a case, and the photos if they are wanted."""
    (folder / "veriwild").mkdir(parents=True)
    if not with_images:
        return
    for image in range(truth.images):
        if image == 0 or truth.vehicle[image] != truth.vehicle[image - 1]:
            (folder / truth.path(image)).parent.mkdir(parents=True)
    workers = os.cpu_count() or 1
    if truth.images < _POOL_FROM or workers == 1:
        _write_some(folder, truth, range(truth.images))
        advance(truth.images)
        return
    tasks = [
        range(start, min(start + _PHOTOS_A_TASK, truth.images)) for start in range(0, truth.images, _PHOTOS_A_TASK)
    ]
    # Forking a process whose BLAS or JVM gateway has threads can hang, so processes start afresh. They
    # draw the truth again from its seed, once each: cheaper than sending it.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_remember, initargs=(truth.images, truth.seed)
    ) as pool:
        for task in _in_order(pool, folder, tasks):
            advance(task)


def _in_order(pool: ProcessPoolExecutor, folder: Path, tasks: list[range]) -> Iterable[int]:
    return pool.map(_write_task, [folder] * len(tasks), tasks)


_truth: t.Truth | None = None


def _remember(images: int, seed: int) -> None:
    """Start of a drawing process: keep the truth for all its tasks."""
    global _truth
    _truth = t.draw_truth(images, seed)


def _write_task(folder: Path, rows: range) -> int:
    if _truth is None:
        raise RuntimeError("the pool was started without _remember")
    _write_some(folder, _truth, rows)
    return len(rows)


def _write_some(folder: Path, truth: t.Truth, rows: range) -> None:
    for image in rows:
        (folder / truth.path(image)).write_bytes(photo_bytes(truth, image))

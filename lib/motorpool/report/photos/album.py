"""The photos of a report: asked for by all sections, read once, handed out as sheets, montages and single pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from motorpool.report.photos.pictures import Square, read_squares, write_montage, write_sheets

#: ``image_id, path, side`` in pixels.
Wanted = tuple[int, str, int]


class Album:
    """Squares of photos by image and side. Without a root there are none, and the page does without.

    Driver memory: the squares as JPEG, about 4 KB each of 96 pixels.
    """

    def __init__(self, spark: SparkSession, images_root: str | None, folder: Path) -> None:
        self._spark = spark
        self._root = images_root
        self._folder = folder
        self._squares: dict[tuple[int, int], Square] = {}

    @property
    def n_asked(self) -> int:
        return len({image_id for image_id, _ in self._squares})

    @property
    def n_unreadable(self) -> int:
        return len({image_id for (image_id, _), square in self._squares.items() if square.jpeg is None})

    def read(self, wanted: Iterable[Wanted]) -> None:
        if self._root is not None:
            self._squares |= read_squares(self._spark, wanted, self._root)

    def has_any(self) -> bool:
        return any(square.jpeg for square in self._squares.values())

    def montage(self, name: str, image_ids: Sequence[int], side: int, columns: int) -> dict[str, Any] | None:
        """A picture of the photos in rows, as ``file, width, height, n``; None where none of them can be read."""
        squares = [self._squares.get((i, side), Square(None, "missing")) for i in image_ids]
        if not any(square.jpeg for square in squares):
            return None
        width, height = write_montage(squares, columns, side, self._folder / f"{name}.jpg")
        return {"file": f"photos/{name}.jpg", "width": width, "height": height, "n": len(squares)}

    def single(self, image_id: int, side: int) -> str | None:
        """One photo as a file; None where it cannot be read."""
        square = self._squares.get((image_id, side))
        if square is None or square.jpeg is None:
            return None
        name = f"image-{image_id}-{side}.jpg"
        (self._folder / name).write_bytes(square.jpeg)
        return f"photos/{name}"

    def sheets(self, image_ids: Sequence[int], side: int) -> list[dict[str, Any]]:
        return write_sheets(image_ids, self._squares, side, self._folder)

    def note(self) -> str:
        if self._root is None:
            return "There are no photos in it: no folder or zip of images was named (case.images_root)."
        if not self._squares:
            return ""
        lost = f"; {self.n_unreadable:,} of them are missing, broken or not to be read" if self.n_unreadable else ""
        return f"It looked for {self.n_asked:,} photos{lost}."

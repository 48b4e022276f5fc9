"""Answers to the questions of a drawn file, from the truth of a sample case: a person who is never wrong."""

from __future__ import annotations

import csv
from pathlib import Path

from motorpool.annotations.annotation import CANNOT_TELL
from motorpool.errors import ConfigError

_PATH, _ATTRIBUTE, _VALUE = "path", "attribute", "value"


def fill_in(case: Path, looks: Path) -> int:
    """Write the true values into the column ``value`` of ``looks``, and return how many: ``?`` for outliers.

    Answers that are there already stay. ConfigError where the file is none of `motorpool annotate draw`, and for
    attributes and photos that the case does not have.
    """
    truth = {row[_PATH]: row for row in _read(case / "attributes.csv", (_PATH,))}
    rows = _read(looks, (_PATH, _ATTRIBUTE, _VALUE))
    n = 0
    for line, row in enumerate(rows, start=2):
        true = truth.get(row[_PATH])
        if true is None:
            raise ConfigError(f"{looks}: line {line}: {row[_PATH]}: is no photo of {case}")
        if row[_ATTRIBUTE] not in true:
            raise ConfigError(
                f"{looks}: line {line}: {row[_ATTRIBUTE]}: is no attribute of {case}, whose attributes.csv has "
                f"{', '.join(true)}"
            )
        if not row[_VALUE]:
            # The photo of an outlier shows no vehicle, so nobody can tell.
            row[_VALUE] = CANNOT_TELL if true.get("outlier") else true[row[_ATTRIBUTE]]
            n += 1
    with open(looks, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return n


def _read(file: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with open(file, encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    lacks = [c for c in needed if not rows or c not in rows[0]]
    if lacks:
        raise ConfigError(f"{file}: has no rows with a column {lacks[0]!r}: name a file of `motorpool annotate draw`")
    return rows

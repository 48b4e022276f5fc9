"""Folders of a table taken out and others put in, as one step that is done or undone.

What a write prepares lies beside the table in a *draft*, ``_<table>-<hex>``: ``rows`` holds the new partitions,
``old`` takes those that they replace, and ``swap.json`` is there from before the first rename to behind the last one.
Wherever a swap is stopped, by an error or by a kill, that file says what to put back.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from motorpool.errors import LakeError

log = logging.getLogger(__name__)

_DRAFT = re.compile(r"_(\w+)-[0-9a-f]+")
_NOTE = "swap.json"


@dataclass(frozen=True)
class Draft:
    """The draft of one write."""

    folder: Path

    @classmethod
    def of(cls, table: Path) -> Draft:
        """A name for a new draft; nothing is made."""
        return cls(table.with_name(f"_{table.name}-{uuid.uuid4().hex}"))

    @property
    def rows(self) -> Path:
        return self.folder / "rows"

    @property
    def old(self) -> Path:
        return self.folder / "old"

    @property
    def note(self) -> Path:
        return self.folder / _NOTE

    @property
    def table(self) -> Path:
        found = _DRAFT.fullmatch(self.folder.name)
        if found is None:
            raise ValueError(f"{self.folder}: is no draft")
        return self.folder.with_name(found[1])

    def discard(self) -> None:
        """Remove the draft, unless it is needed to put rows back; what resists stays for the next `recover`."""
        if not self.note.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def swap(draft: Draft, out: Iterable[Path], into: Iterable[Path]) -> None:
    """Take the partitions ``out`` of the draft's table and put those ``into`` it that the draft holds.

    Paths are relative to the table's folder, which exists; a partition may be in both. Readers see each partition as
    it was, not at all for the moment between two renames, and then as it is to be. An error puts everything back and
    is raised again; where that fails too, and where the process is killed, `recover` does it.
    """
    leaving, coming = set(out), set(into)
    draft.old.mkdir()
    _write_note(draft, leaving, coming)
    try:
        for part in sorted(leaving | coming):
            if part in leaving:
                (draft.table / part).rename(draft.old / part)
            if part in coming:
                (draft.rows / part).rename(draft.table / part)
        # From here on the new rows stand.
        draft.note.unlink()
    except BaseException:
        _put_back(draft, leaving, coming)
        draft.note.unlink(missing_ok=True)
        raise


def recover(lake: Path, tables: Collection[str]) -> None:
    """Undo the swaps that were stopped, and remove what writes have left behind; for the holder of the lake's lock.

    It can be stopped itself, and done again. LakeError where rows cannot be put back.
    """
    for draft in _drafts(lake, tables):
        if draft.note.exists():
            noted = json.loads(draft.note.read_text())
            try:
                _put_back(draft, {Path(p) for p in noted["out"]}, {Path(p) for p in noted["into"]})
                draft.note.unlink()
            except OSError as exc:
                raise LakeError(
                    f"table {draft.table.name!r} of {lake}: a write was stopped in the middle, and the rows before it, "
                    f"which are in {draft.old}, cannot be put back: {exc}"
                ) from exc
            log.warning("table %s: a write was stopped in the middle: the rows before it are back", draft.table.name)
        draft.discard()


def stopped(lake: Path, tables: Collection[str]) -> list[str]:
    """The tables with a swap that was stopped, or is going on."""
    return [d.table.name for d in _drafts(lake, tables) if d.note.exists()]


def _drafts(lake: Path, tables: Collection[str]) -> list[Draft]:
    if not lake.is_dir():
        return []
    names = ((p, _DRAFT.fullmatch(p.name)) for p in lake.iterdir())
    return [Draft(p) for p, found in names if found and found[1] in tables and p.is_dir()]


def _put_back(draft: Draft, leaving: Collection[Path], coming: Collection[Path]) -> None:
    """Undo any number of a swap's renames, also those that were undone in part before."""
    for part in sorted({*leaving, *coming}):
        here, new, old = draft.table / part, draft.rows / part, draft.old / part
        if part in coming and here.exists() and not new.exists():
            here.rename(new)
        if part in leaving and old.exists():
            old.rename(here)


def _write_note(draft: Draft, leaving: Collection[Path], coming: Collection[Path]) -> None:
    """The note is whole and on disk before the first rename, or it is not there."""
    text = json.dumps({"out": sorted(map(str, leaving)), "into": sorted(map(str, coming))})
    partial = draft.folder / f"{_NOTE}.part"
    with open(partial, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    partial.rename(draft.note)
    folder = os.open(draft.folder, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""The journal of a review: every answer on disk before the page calls it saved, until it has been imported.

It is a SQLite database beside the lake. One process has it open at a time; a batch is one transaction, which SQLite
syncs to the disk before it returns, so that answers outlive a killed process and a power cut. Until the import a batch
is never changed, only marked where it was taken back.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from motorpool.annotations.annotation import CANNOT_TELL
from motorpool.errors import LakeError

_VERSION = 1
_TABLES = """
    CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE batches (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, annotator TEXT NOT NULL, seconds REAL NOT NULL,
        taken_back INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE answers (
        batch INTEGER NOT NULL REFERENCES batches (number), image_id INTEGER NOT NULL, path TEXT NOT NULL, value TEXT,
        purpose TEXT NOT NULL, draw TEXT, stratum TEXT, weight REAL
    );
    CREATE INDEX answers_of_batch ON answers (batch);
"""
#: Columns of the file that is imported, as `motorpool.annotations.tables` reads them.
COLUMNS = ("path", "attribute", "value", "annotator", "purpose", "draw", "stratum", "weight")


@dataclass(frozen=True)
class Answer:
    """What a person said about a photo. ``value`` is null where they cannot tell."""

    image_id: int
    path: str
    value: str | None
    purpose: str = "train"
    draw: str | None = None
    stratum: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Saved:
    """A batch of answers as it was saved, the photos in the order in which they were shown."""

    id: str
    annotator: str
    seconds: float
    answers: list[Answer]


class Journal:
    """The answers to one attribute of one lake that are not in the table ``annotations`` yet; for one thread at a time.

    Memory: none to speak of; `batches` gives all answers, some 200 bytes each.
    """

    def __init__(self, file: Path, lake: str, attribute: str) -> None:
        """Open the file, or make it and its folder. LakeError where that cannot be, or it is another review's."""
        self.file = file
        self._attribute = attribute
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # For this account alone: it holds the token of the page.
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(file, isolation_level=None, timeout=1, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise LakeError(f"--journal {file}: cannot be opened: {exc}") from exc
        try:
            self._open(lake)
        except sqlite3.OperationalError as exc:
            self._db.close()
            if "locked" not in str(exc):
                raise LakeError(f"--journal {file}: cannot be written: {exc}") from exc
            raise LakeError(
                f"--journal {file}: another review of {attribute} has it open: open the page of that one under another "
                "name, or stop it first"
            ) from exc
        except sqlite3.DatabaseError as exc:
            self._db.close()
            raise LakeError(
                f"--journal {file}: is no journal of a review ({exc}): move it away, or name another file"
            ) from exc
        except BaseException:
            self._db.close()
            raise

    def _open(self, lake: str) -> None:
        # Held until the file is closed: whoever else opens it would not see these answers.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA synchronous = EXTRA")
        self._db.execute("BEGIN EXCLUSIVE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";\n"):
                self._db.execute(statement)
            about = {"lake": lake, "attribute": self._attribute, "token": secrets.token_urlsafe(24)}
            self._db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")
        if version not in (0, _VERSION):
            raise LakeError(f"--journal {self.file}: was written by another version of motorpool: name another file")
        for key, expected in (("lake", lake), ("attribute", self._attribute)):
            if self._about(key) != expected:
                raise LakeError(
                    f"--journal {self.file}: belongs to the {key} {self._about(key)}, not {expected}: name another file"
                )

    def _about(self, key: str) -> str:
        (value,) = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return str(value)

    @property
    def token(self) -> str:
        """The secret of the page's address: it stays the same, so that an open page outlives its server."""
        return self._about("token")

    def close(self) -> None:
        self._db.close()

    # -- answers -----------------------------------------------------------------------------------

    def save(self, saved: Saved) -> bool:
        """Keep a batch; on disk when this returns. False where it had been kept already: nothing is done.

        LakeError where the disk does not take it; then nothing of it is kept.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                known = self._db.execute("SELECT 1 FROM batches WHERE id = ?", (saved.id,)).fetchone()
                if known is None:
                    cursor = self._db.execute(
                        "INSERT INTO batches (id, annotator, seconds) VALUES (?, ?, ?)",
                        (saved.id, saved.annotator, saved.seconds),
                    )
                    self._db.executemany(
                        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        [
                            (cursor.lastrowid, a.image_id, a.path, a.value, a.purpose, a.draw, a.stratum, a.weight)
                            for a in saved.answers
                        ],
                    )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise LakeError(f"--journal {self.file}: the answers could not be saved: {exc}") from exc
        return known is None

    def take_back(self, batch: str) -> None:
        """The answers of a batch no longer count; on disk when this returns. LakeError as for `save`."""
        try:
            self._db.execute("UPDATE batches SET taken_back = 1 WHERE id = ?", (batch,))
        except sqlite3.Error as exc:
            raise LakeError(f"--journal {self.file}: the answers could not be taken back: {exc}") from exc

    def batches(self) -> list[Saved]:
        """All batches that were not taken back, in the order in which they were saved."""
        found: dict[int, Saved] = {}
        rows = self._db.execute("SELECT number, id, annotator, seconds FROM batches WHERE NOT taken_back ORDER BY 1")
        for number, name, annotator, seconds in rows:
            found[number] = Saved(name, annotator, seconds, [])
        for number, *fields in self._db.execute("SELECT * FROM answers ORDER BY rowid"):
            if number in found:
                found[number].answers.append(Answer(*fields))
        return list(found.values())

    def text(self) -> tuple[str, int]:
        """The last answer of each person to each photo as a CSV file for `annotate import`, and their number."""
        last: dict[tuple[str, int], Answer] = {}
        for saved in self.batches():
            last |= {(saved.annotator, answer.image_id): answer for answer in saved.answers}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (annotator, _), a in last.items():
            value = CANNOT_TELL if a.value is None else a.value
            weight = "" if a.weight is None else repr(a.weight)
            writer.writerow((a.path, self._attribute, value, annotator, a.purpose, a.draw, a.stratum, weight))
        return text.getvalue(), len(last)

    def clear(self) -> None:
        """Forget all answers: they have been imported."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("DELETE FROM answers")
            cursor.execute("DELETE FROM batches")
            cursor.execute("COMMIT")


def journal_file(lake: Path, attribute: str) -> Path:
    """Where the journal of an attribute lies by default: in a folder beside the lake's."""
    return lake.with_name(f"{lake.name}-review") / f"{attribute}.sqlite"


def seconds_each(batches: Sequence[Saved]) -> float | None:
    """Median seconds a photo of the latest batches of a person, of those whose time is known; None without any."""
    paces = sorted(b.seconds / len(b.answers) for b in batches[-20:] if b.seconds > 0)
    return paces[len(paces) // 2] if paces else None

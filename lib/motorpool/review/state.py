"""What a review holds while its page is open: who looks at which photos, and what was said."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motorpool.config.labels import MAX_VALUES
from motorpool.errors import MotorpoolError
from motorpool.review.journal import Answer, Journal, Saved, seconds_each
from motorpool.review.queue import BATCH, Batch, Queue
from motorpool.review.sources import Origin, Prepared, is_value
from motorpool.texts import counted

#: Batches that lie before a person: the one that is shown, and the one whose photos the browser fetches meanwhile.
_AHEAD = 2
#: Who has not been heard of for so long has gone, and the photos before them go to others.
_GONE_S = 15 * 60.0
#: A longer look at a batch was a break, and tells nothing of the pace.
_BREAK_S = 5 * 60.0
#: Groups that the page lists.
_LISTED = 200
_NAME_LENGTH = 60


class RefusedError(MotorpoolError):
    """What the page asked for cannot be done; the message is for the person."""


@dataclass
class _Person:
    name: str
    heard_of: float
    began: float
    batches: deque[Batch] = field(default_factory=deque)
    #: The number of the group that the person has chosen; None for whatever comes next.
    wanted: int | None = None


class Review:
    """Everything that the page can ask for; several threads may ask at once.

    Answers are dicts for JSON. `RefusedError` says what cannot be done, LakeError that the disk did not take an
    answer; neither changes anything.
    """

    def __init__(
        self,
        prepared: Prepared,
        journal: Journal,
        attribute: str,
        goal: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Answers of an earlier review that are in the journal count as given. ``goal``: photos to look at in all."""
        self._journal = journal
        self._attribute = attribute
        self._title = prepared.title
        self._values = list(prepared.values)
        self._is_open = prepared.is_open
        self._origins = prepared.origins
        self._clock = clock
        self._queue = Queue(prepared.photos, prepared.groups, prepared.done, prepared.parts)
        self._goal = self._queue.n_photos if goal is None else min(goal, self._queue.n_photos)
        self._people: dict[str, _Person] = {}
        #: By row and person: what was said, the last of it.
        self._said: dict[int, dict[str, str | None]] = {}
        #: The batches of each person that were not taken back.
        self._saved: dict[str, list[Saved]] = {}
        self._lock = threading.Lock()
        for saved in journal.batches():
            self._remember(saved)
        self._name_clusters()

    @property
    def n_answers(self) -> int:
        """Answers in the journal, one for each photo of each person."""
        return len({(s.annotator, a.image_id) for batches in self._saved.values() for s in batches for a in s.answers})

    @property
    def n_left(self) -> int:
        """Photos to look at until the goal is reached."""
        return self._goal - min(self._queue.n_done, self._goal)

    def _remember(self, saved: Saved) -> None:
        self._saved.setdefault(saved.annotator, []).append(saved)
        rows = self._queue.photos.rows_of([a.image_id for a in saved.answers])
        for row, answer in zip(rows, saved.answers, strict=True):
            if answer.value is not None and answer.value not in self._values:
                self._values.append(answer.value)
            if row is not None:
                self._said.setdefault(row, {})[saved.annotator] = answer.value
        self._queue.answered([row for row in rows if row is not None])

    def _name_clusters(self) -> None:
        """Names of clusters from the answers of an earlier review."""
        by_group: dict[int, Counter[str | None]] = {}
        for row, answers in self._said.items():
            by_group.setdefault(self._queue.group_of(row), Counter()).update(answers.values())
        for number, counts in by_group.items():
            named = [value for value, _ in counts.most_common() if value is not None]
            if named:
                self._queue.name(number, named[0], -(-counts.total() // BATCH))

    # -- what the page asks for --------------------------------------------------------------------

    def look(self, who: str, wanted: int | None = None) -> dict[str, Any]:
        """The batch before a person, or a new one. ``wanted`` chooses a group, -1 whatever comes next."""
        with self._lock:
            person = self._person(who)
            if wanted is not None:
                person.wanted = None if wanted < 0 else wanted
                self._put_back_all(person)
                person.began = self._clock()
            return self._shown(person)

    def save(self, who: str, batch_id: str, answers: Mapping[int, str | None], take: str | None) -> dict[str, Any]:
        """Keep the answers to a batch, by image id; on disk when this returns. Then the next batch.

        Photos of the batch without an answer come again later. ``take`` is the value that the person gave the batch as
        a whole. A batch that was saved already is not saved again. Answers to a batch of a server that was killed are
        taken too: the photos are still before the person.
        """
        with self._lock:
            person = self._person(who)
            rows = self._checked(answers)
            batch = next((b for b in person.batches if b.id == batch_id), None)
            if batch is not None and not set(rows) <= set(batch.rows):
                raise RefusedError("there are answers to photos that were not shown: reload the page")
            saved = Saved(
                batch_id,
                person.name,
                min(self._clock() - person.began, _BREAK_S) if batch is not None else 0.0,
                [self._answer(row, image_id, answers[image_id]) for row, image_id in zip(rows, answers, strict=True)],
            )
            note = ""
            if self._journal.save(saved):
                note = self._otherwise(rows, answers, person)
                self._remember(saved)
                if batch is not None and take is not None and batch.kind == "cluster":
                    self._queue.name(batch.group, take)
            if batch is not None:
                person.batches.remove(batch)
                self._queue.put_back(batch)
            person.began = self._clock()
            return self._shown(person, note)

    def undo(self, who: str) -> dict[str, Any]:
        """Take back the last batch that a person saved, and show it again with its answers."""
        with self._lock:
            person = self._person(who)
            mine = self._saved.get(person.name)
            if not mine:
                raise RefusedError("there is nothing to take back: you have saved nothing since the last import")
            saved = mine[-1]
            rows = self._queue.photos.rows_of([a.image_id for a in saved.answers])
            known = [row for row in rows if row is not None]
            if len(known) < len(rows) or not known:
                raise RefusedError("your last answers are to photos that this review does not show")
            self._journal.take_back(saved.id)
            mine.pop()
            self._forget(known, person.name)
            again = [row for row in known if not self._said.get(row)]
            given = {row: a.value for row, a in zip(known, saved.answers, strict=True)}
            person.batches.appendleft(self._queue.reopen(given, again))
            while len(person.batches) > _AHEAD:
                self._queue.put_back(person.batches.pop())
            person.began = self._clock()
            return self._shown(person, f"Taken back: {counted(len(rows), 'photo')}.")

    def _forget(self, rows: Sequence[int], who: str) -> None:
        """Answers were taken back: what the person said before, if anything, counts again."""
        for row in rows:
            self._said.get(row, {}).pop(who, None)
        by_image = {self._image_id(row): row for row in rows}
        for saved in self._saved[who]:
            for answer in saved.answers:
                if answer.image_id in by_image:
                    self._said[by_image[answer.image_id]][who] = answer.value

    def later(self, who: str) -> dict[str, Any]:
        """Put the batch behind all others of its group."""
        with self._lock:
            person = self._person(who)
            if person.batches:
                self._queue.put_back(person.batches.popleft())
            person.began = self._clock()
            return self._shown(person)

    def split(self, who: str) -> dict[str, Any]:
        """Split the cluster that is before a person, and show the first part of it."""
        with self._lock:
            person = self._person(who)
            batch = person.batches[0] if person.batches else None
            if batch is None or batch.kind != "cluster":
                raise RefusedError("only a cluster can be split")
            n_parts = self._queue.split(self._queue.group_of(batch.rows[0]))
            if not n_parts:
                raise RefusedError(f"{batch.title} cannot be split any further")
            self._put_back_all(person)
            person.wanted = None
            person.began = self._clock()
            return self._shown(person, f"{batch.title} is shown in {n_parts:,} parts from now on.")

    def path(self, image_id: int) -> str | None:
        """The path of a photo of the review; None for any other."""
        row = self._queue.photos.rows_of([image_id])[0]
        return None if row is None else str(self._queue.photos.path[row].as_py())

    # -- checking ----------------------------------------------------------------------------------

    def _person(self, who: str) -> _Person:
        name = who.strip()
        if not name or len(name) > _NAME_LENGTH or not name.isprintable():
            raise RefusedError(f"a name has 1 to {_NAME_LENGTH} characters: {name[:_NAME_LENGTH]!r} cannot be one")
        now = self._clock()
        for other in self._people.values():
            if other.name != name and now - other.heard_of > _GONE_S:
                self._put_back_all(other)
        person = self._people.setdefault(name, _Person(name, now, now))
        person.heard_of = now
        return person

    def _checked(self, answers: Mapping[int, str | None]) -> list[int]:
        """The rows of the photos; RefusedError for photos that are not in the review, and values that cannot be."""
        if not answers or len(answers) > BATCH:
            raise RefusedError(f"{len(answers):,} answers: a batch has 1 to {BATCH}")
        rows = self._queue.photos.rows_of(list(answers))
        if None in rows:
            raise RefusedError("there are answers to photos that this review does not show: reload the page")
        known = set(self._values)
        new = dict.fromkeys(v for v in answers.values() if v is not None and v not in known)
        for value in new:
            if not self._is_open:
                raise RefusedError(f"{value[:100]!r}: is no value of {self._attribute}: the config lists them")
            if not is_value(value):
                raise RefusedError(f"{value[:100]!r}: a value is a text of 1 to 100 characters in one line, and not ?")
        if len(known) + len(new) > MAX_VALUES:
            raise RefusedError(f"{self._attribute} has {len(known)} values already, and at most {MAX_VALUES} are read")
        return [row for row in rows if row is not None]

    def _answer(self, row: int, image_id: int, value: str | None) -> Answer:
        origin = self._origins.get(row, Origin())
        path = str(self._queue.photos.path[row].as_py())
        return Answer(image_id, path, value, origin.purpose, origin.draw, origin.stratum, origin.weight)

    def _otherwise(self, rows: Sequence[int], answers: Mapping[int, str | None], person: _Person) -> str:
        """A sentence on photos to which somebody else has given another answer."""
        others: Counter[str] = Counter()
        for row, value in zip(rows, answers.values(), strict=True):
            others.update(name for name, v in self._said.get(row, {}).items() if name != person.name and v != value)
        if not others:
            return ""
        named = ", ".join(f"{name} ({n})" for name, n in sorted(others.items()))
        return f"Answered otherwise by {named}: both answers are kept, and no label is learned from these photos."

    # -- what the page shows -----------------------------------------------------------------------

    def _put_back_all(self, person: _Person) -> None:
        while person.batches:
            self._queue.put_back(person.batches.pop())

    def _fill(self, person: _Person) -> None:
        while len(person.batches) < _AHEAD:
            most = self._goal - self._queue.n_done - self._queue.n_out
            batch = self._queue.take(person.wanted, most)
            if batch is None and person.wanted is not None and not person.batches:
                # The group that was chosen has no more.
                person.wanted = None
                batch = self._queue.take(None, most)
            if batch is None:
                return
            person.batches.append(batch)

    def _shown(self, person: _Person, note: str = "") -> dict[str, Any]:
        self._fill(person)
        shown = list(person.batches)
        groups = [{"number": n, "title": t, "left": left} for n, t, left in self._queue.groups()]
        return {
            "attribute": self._attribute,
            "title": self._title,
            "values": self._values,
            "open": self._is_open,
            "batch": self._batch(shown[0]) if shown else None,
            "ahead": [self._image_id(row) for batch in shown[1:] for row in batch.rows],
            "groups": groups[:_LISTED],
            "wanted": -1 if person.wanted is None else person.wanted,
            "progress": self._progress(person),
            "last": self._last(person),
            "note": note,
        }

    def _image_id(self, row: int) -> int:
        return int(self._queue.photos.image_id[row])

    def _batch(self, batch: Batch) -> dict[str, Any]:
        photos = self._queue.photos
        return {
            "id": batch.id,
            "title": batch.title,
            "kind": batch.kind,
            "value": batch.value,
            "photos": [
                {"id": self._image_id(row), "path": photos.path[row].as_py(), "note": photos.note[row].as_py()}
                for row in batch.rows
            ],
            "given": {self._image_id(row): value for row, value in batch.given.items()},
        }

    def _progress(self, person: _Person) -> dict[str, Any]:
        done = min(self._queue.n_done, self._goal)
        pace = seconds_each(self._saved.get(person.name, []))
        now = self._clock()
        others = [p.name for p in self._people.values() if p is not person and now - p.heard_of < _GONE_S]
        return {
            "done": done,
            "total": self._goal,
            "mine": sum(len(s.answers) for s in self._saved.get(person.name, [])),
            "seconds_left": None if pace is None else round(pace * (self._goal - done)),
            "others": sorted(others),
        }

    def _last(self, person: _Person) -> list[dict[str, Any]] | None:
        """What the last batch said, most frequent value first; None where nothing is saved."""
        saved = self._saved.get(person.name)
        if not saved:
            return None
        counts = Counter(a.value for a in saved[-1].answers)
        return [{"value": value, "n": n} for value, n in counts.most_common()]

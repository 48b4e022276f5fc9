"""A title and short sentences for a cluster, from its `Evidence` alone; what is not known is said to be unknown.

A value names a cluster where surely half of its images have it, two values together where surely three fifths do and
more than usual; a title begins with what stands out against all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motorpool.interpret.evidence import MIN_COVERAGE, MIN_IMAGES, Evidence, Share
from motorpool.percentages import percent

#: Where a title comes from; where its parts come from several sources, these are joined by `AND`.
PEOPLE, ATTRIBUTES, LABELS, PHOTOS = "people", "attributes", "labels", "photos"
AND = " and "

_HALF, _PAIR, _IN_PAIR, _NEARLY_ALL = 0.5, 0.6, 0.2, 0.75
_TITLE_PARTS = 3
#: Topics that people ask for, with the names that attribute columns give them; the others go by their column's name.
_TOPICS = {
    "body type": ("body_type", "bodytype", "body", "type", "vehicle_type"),
    "colour": ("color", "colour"),
    "view": ("view", "viewpoint", "side"),
}
_ASKED = ("body type", "view")
_LIGHTS = {"night": "at night", "dim": "in dim light", "day": "in daylight", "glare": "in glare"}
_MORE_LIGHT = {"night": "night", "dim": "dim light", "day": "daylight", "glare": "glare"}
_TALL = 1.06

#: How far a median must be from the usual one to be told, as a factor, and the words for more and for less of it.
_NUMBERS = {
    "tallness": (_TALL, "frames are taller than usual ({0:.2f} against {1:.2f} times their width)",
                 "frames are flatter than usual ({0:.2f} against {1:.2f} times their width)"),
    "width": (1.15, "photos are larger than usual ({0:.0f} against {1:.0f} pixels wide)",
              "photos are smaller than usual ({0:.0f} against {1:.0f} pixels wide)"),
    "brightness": (1.2, "they are brighter than usual (lightness {0:.0f} against {1:.0f})",
                   "they are darker than usual (lightness {0:.0f} against {1:.0f})"),
    "sharpness": (2.0, "they have more fine detail than usual", "they are more blurred than usual"),
}  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """One thing to say about a cluster: what its images have; ``source`` is ATTRIBUTES, LABELS or PHOTOS."""

    name: str
    shares: Sequence[Share]
    source: str
    #: The shares are of all images, most of which have no value.
    exception: bool = False

    @property
    def labelled(self) -> bool:
        """Whether it was told of the images, and not measured in their photos."""
        return self.source != PHOTOS

    @property
    def named(self) -> Sequence[Share]:
        """The one or two values that most images have; none where that is not sure."""
        first = self.shares[:1]
        if first and first[0].lower >= _HALF:
            return first
        pair = self.shares[:2]
        both = _together(pair) if len(pair) == 2 and pair[1].share >= _IN_PAIR else None
        # Two of two views are no finding.
        if both and both.lower >= _PAIR and both.stands_out:
            return pair
        return ()

    @property
    def phrase(self) -> str:
        """The values that name the cluster, as a title has them; empty where there are none."""
        values = [_LIGHTS.get(s.value, s.value) if self.name == "light" else clean(s.value) for s in self.named]
        text = " or ".join(values)
        if not text or self.name in ("body type", "colour", "light"):
            return text
        return f"{text} view" if self.name == "view" else f"{self.name}: {text}"

    @property
    def nearly_all(self) -> bool:
        return bool(self.named) and self.named[0].lower >= _NEARLY_ALL

    @property
    def stands_out(self) -> bool:
        return bool(self.named) and _together(self.named).stands_out


@dataclass(frozen=True)
class Part:
    """One part of a title: its text, what it says of which topic, and the shares of it that name the cluster.

    ``source`` is ATTRIBUTES, LABELS or PHOTOS, or several of them joined, or None where the text says that nothing
    names the cluster. ``share`` of ``of`` images, which are those of the source ``counted``, have it, and ``usual`` is
    that of all images of the model; None for what is no share (the frames' form).
    """

    text: str
    source: str | None = None
    topic: str = ""
    value: str = ""
    share: float | None = None
    of: int | None = None
    usual: float | None = None
    counted: str = PHOTOS


@dataclass(frozen=True)
class Basis:
    """Where the title of a cluster comes from, and the smallest share among its parts; None where there is none."""

    source: str | None
    share: float | None


def clean(text: str, limit: int = 40) -> str:
    """A value of somebody's file, fit for a line: printable, and not longer than ``limit``."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def titles(model: Sequence[Evidence]) -> dict[int, str]:
    """The title of each cluster of a model; equal ones are told apart by what else is sure, then by number."""
    parts = {e.cluster: [p.text for p in title_parts(e)] for e in model}
    found = {c: _joined(p[:_TITLE_PARTS]) for c, p in parts.items()}
    for cluster in sorted(found):
        same = [c for c in found if found[c] == found[cluster]]
        if len(same) > 1:
            longer = {c: _joined(parts[c]) for c in same}
            for c in same:
                alone = list(longer.values()).count(longer[c]) == 1 and longer[c] not in found.values()
                found[c] = longer[c] if alone else f"{found[c]} (cluster {c})"
    return found


def describe(e: Evidence, model: Mapping[int, Evidence], named: Mapping[tuple[str, int], str]) -> str:
    """Short sentences: what the images show, what the cluster holds, how it differs from the nearest one.

    ``model`` has the evidence of all clusters of the model by number, ``named`` the titles that are known, by model
    and cluster.
    """
    sentences = [*_shows(e), *_holds(e, named)]
    if e.neighbour is not None and e.neighbour in model:
        sentences.append(_differs(e, model[e.neighbour], named.get((e.model_id, e.neighbour))))
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)


def topics(e: Evidence) -> list[Topic]:
    """Labelled attributes first, those that people ask for before others; then what was measured.

    An attribute that less than MIN_COVERAGE of the cluster's images have says nothing about the others.
    """
    by_topic: dict[str, Topic] = {}
    for column, shares in e.attributes.items():
        name = next((t for t, columns in _TOPICS.items() if column.lower() in columns), column.replace("_", " "))
        if shares and shares[0].of >= MIN_COVERAGE * e.size and name not in by_topic:
            by_topic[name] = Topic(name, shares, LABELS if column in e.labels else ATTRIBUTES)
    if "colour" not in by_topic or not by_topic["colour"].named:
        by_topic["colour"] = Topic("colour", e.colors, PHOTOS)
    asked = [by_topic.pop(name) for name in _TOPICS if name in by_topic]
    for column, shares in e.exceptions.items():
        name = column.replace("_", " ")
        by_topic.setdefault(name, Topic(name, shares, ATTRIBUTES, exception=True))
    return [*asked, *by_topic.values(), Topic("light", e.lights, PHOTOS)]


# -- titles ------------------------------------------------------------------------------------------


def title_parts(e: Evidence) -> list[Part]:
    """What names the cluster: first what stands out, in the order of topics, then what is sure but usual.

    A title has the first three, and further ones where that tells it from another.
    """
    all_topics = topics(e)
    sure = [_named(t) for t in all_topics if t.stands_out]
    # What is usual names a cluster that has little else; daylight names nothing.
    usual = [_named(t) for t in all_topics if t.nearly_all and not t.stands_out and t.name != "light"]
    known = e.photos.measured >= MIN_IMAGES or any(t.labelled and not t.exception for t in all_topics)
    if sure or usual:
        return [*sure, *usual, *_shape(e)]
    # One value among others is no name, but better than none.
    return [*_shape(e), *_more_than_usual(all_topics)] or [Part("mixed" if known else "unknown")]


def parts_of(title: str, e: Evidence) -> list[Part]:
    """Those parts that a title, made from the evidence, has."""
    found: list[Part] = []
    for part in title_parts(e):
        if title.lower().startswith(", ".join(p.text for p in [*found, part]).lower()):
            found.append(part)
    return found


def basis_of(title: str, e: Evidence) -> Basis:
    """Where a title that was made from the evidence comes from, and how sure it is."""
    parts = parts_of(title, e)
    sources = {source for p in parts if p.source for source in p.source.split(AND)}
    shares = [p.share for p in parts if p.share is not None]
    return Basis(AND.join(sorted(sources)) or None, min(shares, default=None))


def named_colour(e: Evidence) -> str | None:
    """The colour that the title begins with, or says to be more frequent than usual; None where it says none."""
    colour = next(t for t in topics(e) if t.name == "colour")
    found = [*colour.named, *_raised(colour)][:1]
    return clean(found[0].value).lower() if found else None


def _named(topic: Topic) -> Part:
    both = _together(topic.named)
    values = " or ".join(_value(s, topic.name) for s in topic.named)
    return Part(topic.phrase, topic.source, topic.name, values, both.share, both.of, both.usual, topic.source)


def _more_than_usual(all_topics: Sequence[Topic]) -> list[Part]:
    """The first values that stand out without naming the cluster, of two topics, as one part."""
    raised = [(t, s) for t in all_topics for s in _raised(t)[:1]][:2]
    if not raised:
        return []
    words = [_more(s, t.name) for t, s in raised]
    topic, least = min(raised, key=lambda found: found[1].share)
    source = AND.join(sorted({t.source for t, _ in raised}))
    text = f"more {' and '.join(words)} than usual"
    return [Part(text, source, topic.name, _value(least, topic.name), least.share, least.of, least.usual, topic.source)]


def _shape(e: Evidence) -> list[Part]:
    own, usual = e.numbers.get("tallness", (1.0, 1.0))
    if 1 / _TALL < own / usual < _TALL:
        return []
    return [Part("tall frames" if own > usual else "flat frames", PHOTOS, "frames")]


def _more(share: Share, topic: str) -> str:
    return _MORE_LIGHT.get(share.value, share.value) if topic == "light" else clean(share.value)


def _joined(parts: Sequence[str]) -> str:
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


# -- sentences ---------------------------------------------------------------------------------------


def _shows(e: Evidence) -> list[str]:
    labelled = [t for t in topics(e) if t.labelled]
    said = [_labelled(t) for t in labelled if t.stands_out or t.name in (*_ASKED, "colour") or _raised(t)]
    told = {t.name for t in labelled}
    unknown = [name for name in _ASKED if name not in told]
    if unknown:
        said.append(f"{' and '.join(unknown)}: unknown")
    return [*_measured(e), *said]


def _measured(e: Evidence) -> list[str]:
    lost = ", ".join(f"{n:,} {status}" for status, n in e.photos.lost.items() if n)
    n = e.photos.measured
    if not n:
        return [f"no photo could be measured ({lost})" if lost else "no photos were at hand to measure"]
    said = [_frequent(Topic("colour", e.colors, PHOTOS)), _frequent(Topic("light", e.lights, PHOTOS))]
    photos = "photo was" if n == 1 else "photos were"
    return [*said, *_unusual_numbers(e)[:2], f"{n:,} {photos} measured" + (f", {lost}" if lost else "")]


def _frequent(topic: Topic) -> str:
    """A measured topic: what most have, or the most frequent; and what is more frequent than usual."""
    if not topic.shares or topic.shares[0].of < MIN_IMAGES:
        return f"{topic.name} unknown"
    named = topic.named
    # What the photo is taken in is no claim about the cluster, so a plain majority will do.
    if topic.name == "light" and topic.shares[0].share >= _HALF:
        named = topic.shares[:1]
    if not named:
        return f"{topic.name} is mixed ({_told(topic, 2)})"
    both = _together(named)
    usual = f" ({percent(both.usual)} of all images)" if both.stands_out or topic.name == "colour" else ""
    more = [f", {percent(s.share)} {_value(s, topic.name)} ({percent(s.usual)})" for s in _raised(topic)[:1]]
    return f"{percent(both.share)} are {' or '.join(_value(s, topic.name) for s in named)}{usual}{''.join(more)}"


def _told(topic: Topic, most: int) -> str:
    """The most frequent values, and one that is more frequent than usual, with their shares."""
    raised = _raised(topic)
    shown = [*topic.shares[:most], *(s for s in raised[:1] if s not in topic.shares[:most])]
    return "; ".join(
        f"{_value(s, topic.name)} {percent(s.share)}" + (f", usually {percent(s.usual)}" if s in raised else "")
        for s in shown
    )


def _labelled(topic: Topic) -> str:
    of = topic.shares[0].of
    images = "labelled image" if of == 1 else "labelled images"
    if topic.exception:
        shown = [*topic.named, *_raised(topic)][:2]
        told = [f"{clean(s.value)} on {s.count:,}" for s in shown]
        return f"{topic.name}: {_listed(told)} of {of:,} images (usually {percent(_together(shown).usual)})"
    if topic.stands_out or topic.nearly_all:
        both = _together(topic.named)
        values = " or ".join(clean(s.value) for s in topic.named)
        known = f"{both.vehicles:,} vehicles; " if both.vehicles is not None else ""
        return f"{topic.name}: {values} on {both.count:,} of {of:,} {images} ({known}usually {percent(both.usual)})"
    if of < MIN_IMAGES:
        return f"{topic.name}: unknown ({of:,} {images})"
    return f"{topic.name}: mixed on {of:,} {images} ({_told(topic, 3)})"


def _unusual_numbers(e: Evidence) -> list[str]:
    said = []
    for name, (factor, more, less) in _NUMBERS.items():
        own, usual = e.numbers.get(name, (0.0, 0.0))
        if own > 0 and usual > 0 and not 1 / factor < own / usual < factor:
            said.append((more if own > usual else less).format(own, usual))
    return said


def _holds(e: Evidence, named: Mapping[tuple[str, int], str]) -> list[str]:
    text = f"it holds {e.size:,} {'image' if e.size == 1 else 'images'} ({percent(e.share)})"
    if e.n_vehicles is not None:
        vehicles = "vehicle" if e.n_vehicles == 1 else "vehicles"
        whole = f"{e.n_whole:,}" if e.n_whole else "none"
        text += f" of {e.n_vehicles:,} {vehicles}, {whole} of them with all their photos"
    strong = sorted((o for o in e.overlaps if o.share >= _HALF and o.share >= 1.25 * o.usual), key=lambda o: -o.share)
    if not strong:
        return [text, *(["no cluster of another feature set holds half of them"] if e.overlaps else [])]
    said = []
    for o in strong[:2]:
        title = named.get((o.model_id, o.cluster))
        known = f" “{title}”" if title else ""
        where = f"cluster {o.cluster}{known} of {o.features} ({percent(o.usual)} of all)"
        said.append(f"{percent(o.share)} of them are in {where}")
    return [text, *said]


def _differs(e: Evidence, other: Evidence, title: str | None) -> str:
    known = f" (“{title}”)" if title else ""
    text = f"its nearest cluster is {other.cluster}{known}"
    theirs = {t.name: t for t in topics(other)}
    gaps = [
        (abs(here.share - there.share), t.name, here, there)
        for t in topics(e)
        if t.name in theirs and theirs[t.name].source == t.source
        for here, there in _pairs(t.shares, theirs[t.name].shares)
        if here.lower > there.share or there.lower > here.share
    ]
    if not gaps:
        return f"{text}, and nothing that was measured or labelled tells them apart"
    gap, name, here, there = max(gaps, key=lambda g: g[0])
    # What the other one has says more than what it lacks.
    has = [g for g in gaps if g[3].share > g[2].share and g[0] >= 0.6 * gap]
    if has:
        _, name, here, there = max(has, key=lambda g: g[0])
    if gap < 0.1:
        return f"{text}, and they hardly differ in what was measured or labelled"
    theirs_are, here_are = ("none" if s.share == 0 else percent(s.share) for s in (there, here))
    shares = f"{theirs_are} are {_value(there, name)}, and {here_are} here"
    return f"{text}, where {shares}"


def _pairs(a: Sequence[Share], b: Sequence[Share]) -> list[tuple[Share, Share]]:
    """The shares of every value in both, 0 where one has none of it; none where one has too few images."""
    if not a or not b or min(a[0].of, b[0].of) < MIN_IMAGES:
        return []
    first, second = ({s.value: s for s in shares} for shares in (a, b))
    return [
        (first.get(v) or Share(v, 0, a[0].of, second[v].usual), second.get(v) or Share(v, 0, b[0].of, first[v].usual))
        for v in sorted({*first, *second})
    ]


# -- words -------------------------------------------------------------------------------------------


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _value(share: Share, topic: str) -> str:
    return _LIGHTS.get(share.value, share.value) if topic == "light" else clean(share.value)


def _raised(topic: Topic) -> list[Share]:
    """Values that stand out without naming the cluster, the most raised first; a tenth of the images at least."""
    named = topic.named
    return sorted(
        (s for s in topic.shares if s.stands_out and s.share >= 0.1 and s not in named), key=lambda s: -s.lift
    )


def _together(shares: Sequence[Share]) -> Share:
    """Several values of one topic as one. A vehicle has few values, so vehicles add up."""
    vehicles = [s.vehicles for s in shares if s.vehicles is not None]
    return Share(
        " or ".join(s.value for s in shares),
        sum(s.count for s in shares),
        shares[0].of,
        sum(s.usual for s in shares),
        sum(vehicles) if vehicles else None,
    )

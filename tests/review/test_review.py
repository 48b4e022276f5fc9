"""The review without a browser: which photos, in which order, to whom, and what is kept; and who may ask the server."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from motorpool.config.labels import AttributeConfig
from motorpool.config.run import LakeConfig
from motorpool.errors import AnnotationError, ConfigError, LakeError
from motorpool.lake.local_tables import LocalTables
from motorpool.photos.source import open_images
from motorpool.pipeline.annotating.drawing import COLUMNS
from motorpool.review import sources
from motorpool.review.journal import Answer, Journal, Saved, journal_file
from motorpool.review.queue import BATCH, Group, Photos, Queue
from motorpool.review.sources import Prepared, choose_attribute, prepare
from motorpool.review.state import RefusedError, Review
from motorpool.serve import bound
from review_lake import COARSE, NAMES, Made, label, make_lake, path_of, true_colour, write_many

pytest.importorskip("starlette", reason="the extra `review` is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra `review` is not installed")

from motorpool.review.app import build_app  # noqa: E402

FORMATS: list[Literal["delta", "parquet"]] = ["delta", "parquet"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Review]]:
    """Opens reviews of one journal, the one before closed as a kill closes it: without a word."""
    journals: list[Journal] = []

    def open_review(prepared: Prepared, goal: int | None = None) -> Review:
        for journal in journals:
            journal.close()
        journals.append(Journal(tmp_path / "journal.sqlite", "lake", "colour"))
        return Review(prepared, journals[-1], "colour", goal, clock)

    yield open_review
    for journal in journals:
        journal.close()


def ids_of(shown: dict[str, Any]) -> list[int]:
    return [photo["id"] for photo in shown["batch"]["photos"]]


def take_all(review: Review, who: str, shown: dict[str, Any], value: str | None = None) -> dict[str, Any]:
    """Save a batch as it is, or all of it as ``value``."""
    take = value or shown["batch"]["value"]
    return review.save(who, shown["batch"]["id"], dict.fromkeys(ids_of(shown), take), take)


# -- which photos ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lake_format", FORMATS)
def test_photos_left_for_people_by_their_suggested_value(
    tmp_path: Path, lake_format: Literal["delta", "parquet"]
) -> None:
    said = [{"image_id": 1, "value": "red"}, {"image_id": 7, "value": None, "purpose": "audit"}]
    made = make_lake(tmp_path, lake_format=lake_format, annotations=said, photos=False)
    found = prepare(made.tables, "colour")
    ids = found.photos.image_id
    # Accepted ones, the one looked at, and the vehicle that an audit drew (6, 7, 8) are left out.
    assert ids.tolist() == [i for i in range(110) if i not in (1, 6, 7, 8)]
    assert found.photos.path.to_pylist() == [path_of(i) for i in ids]
    assert [g.title for g in found.groups] == sorted(NAMES)
    assert found.values == NAMES
    for group in found.groups:
        assert {label(i) for i in ids[group.rows]} == {group.value}
        assert [i % 7 for i in ids[group.rows]] == sorted(i % 7 for i in ids[group.rows])
    assert found.photos.note[found.groups[0].rows[0]].as_py() == "30 % sure"
    everything = prepare(made.tables, "colour", everything=True)
    assert len(everything.photos.image_id) == 116
    for group in everything.groups:
        accepted = [i >= 110 for i in everything.photos.image_id[group.rows]]
        assert accepted == sorted(accepted)


def test_of_a_vehicle_s_attribute_the_first_photos_show_different_vehicles(tmp_path: Path) -> None:
    found = prepare(make_lake(tmp_path, per="vehicle", photos=False).tables, "colour")
    for group in found.groups:
        vehicles = (found.photos.image_id[group.rows] // 3).tolist()
        first = vehicles[: len(set(vehicles))]
        assert len(set(first)) == len(first)


@pytest.mark.parametrize("lake_format", FORMATS)
def test_clusters_from_their_middle_to_their_rim(tmp_path: Path, lake_format: Literal["delta", "parquet"]) -> None:
    made = make_lake(tmp_path, 240, lake_format, photos=False)
    found = prepare(made.tables, "colour", model=COARSE)
    assert [g.title for g in found.groups] == ["cluster 0: reddish <b>cars</b>", "cluster 1", "cluster 2"]
    for cluster, group in enumerate(found.groups):
        ids = found.photos.image_id[group.rows]
        assert {NAMES.index(true_colour(int(i))) for i in ids} == {cluster}
        first = ids[:BATCH].tolist()
        assert len({i // 3 for i in first}) == BATCH
        distances = [i % 11 for i in first]
        assert distances == sorted(distances)
        # The nearest photos of the vehicles are all within 8.
        assert (distances[0], distances[-1]) == (0, 8)
    with pytest.raises(ConfigError, match=r"--model nothing: the lake has no such model.*\n  c{16}  kmeans with 3"):
        prepare(made.tables, "colour", model="nothing")


def draw_file(path: Path, rows: list[dict[str, str]]) -> str:
    whole = [{"attribute": "colour", "purpose": "train"} | row for row in rows]
    lines = [COLUMNS, *(tuple(row.get(c, "") for c in COLUMNS) for row in whole)]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return str(path)


def test_photos_of_a_draw_keep_their_order_and_their_draw(tmp_path: Path) -> None:
    made = make_lake(tmp_path, annotations=[{"image_id": 50, "value": "red"}], photos=False)
    rows = [{"path": path_of(i), "suggested": "red" if i % 2 else "", "why": f"because {i}"} for i in (9, 50, 2, 33)]
    found = prepare(made.tables, "colour", draws=draw_file(tmp_path / "looks.csv", rows))
    ids = found.photos.image_id
    assert ids.tolist() == [2, 9, 33, 50]
    assert {g.kind: ids[g.rows].tolist() for g in found.groups} == {"single": [50, 2], "suggested": [9, 33]}
    assert found.done.tolist() == [False, False, False, True]
    assert found.photos.note.to_pylist() == ["because 2", "because 9", "because 33", "because 50"]

    # What a label says must not lead those who measure it.
    sample = {"suggested": "red", "purpose": "audit", "draw": "audit-1", "stratum": "2", "weight": "2.5"}
    audit = [{"path": path_of(i)} | sample for i in (4, 3)]
    found = prepare(made.tables, "colour", draws=draw_file(tmp_path / "audit.csv", audit))
    assert [(g.kind, g.value, g.rows.tolist()) for g in found.groups] == [("single", None, [1, 0])]
    assert found.origins[0] == sources.Origin("audit", "audit-1", "2", 2.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "nowhere.jpg"}, "line 3: nowhere.jpg: no image of the lake has this path"),
        ({"path": path_of(0)}, f"line 3: {path_of(0)}: stands in the file twice"),
        ({"path": path_of(1), "attribute": "type"}, "line 3: is about the attribute 'type', not 'colour'"),
        ({"path": path_of(1), "weight": "many"}, "line 3: weight 'many': expected a number"),
        ({"path": path_of(1), "purpose": "fun"}, "line 3: purpose 'fun': expected train or audit"),
    ],
)
def test_a_file_that_is_no_draw_is_refused_with_its_line(tmp_path: Path, row: dict[str, str], message: str) -> None:
    made = make_lake(tmp_path, 6, photos=False)
    with pytest.raises(AnnotationError, match=message):
        prepare(made.tables, "colour", draws=draw_file(tmp_path / "looks.csv", [{"path": path_of(0)}, row]))
    (tmp_path / "other.csv").write_text("path,value\n")
    with pytest.raises(
        AnnotationError, match="is no file of `motorpool annotate draw`: it lacks the columns attribute"
    ):
        prepare(made.tables, "colour", draws=str(tmp_path / "other.csv"))


def test_what_there_is_nothing_to_look_at_of_is_told(tmp_path: Path) -> None:
    made = make_lake(tmp_path, 12, photos=False)
    assert choose_attribute(made.tables, None, None) == "colour"
    with pytest.raises(ConfigError, match=r"the config has no such attribute; `labels\.attributes` names view"):
        choose_attribute(made.tables, "colour", {"view": AttributeConfig()})
    with pytest.raises(ConfigError, match="there are several: colour and view"):
        choose_attribute(made.tables, None, {"view": AttributeConfig()})
    with pytest.raises(LakeError, match=r"no labels of view yet: look at the clusters of a model \(--model ID\)"):
        prepare(made.tables, "view")
    bare = make_lake(tmp_path / "bare", 3, photos=False, without=["label_sets", "image_labels", "models"])
    with pytest.raises(ConfigError, match="the lake has no labels yet: name what people shall tell"):
        choose_attribute(bare.tables, None, None)
    done = make_lake(tmp_path / "done", 9, photos=False)
    with pytest.raises(LakeError, match="every label of colour is accepted or was looked at; --all shows"):
        prepare(done.tables, "colour")
    with pytest.raises(LakeError, match=r"the lake \(s3://bucket/lake\) lies in no folder of this machine"):
        LocalTables(LakeConfig(path="s3://bucket/lake"))


# -- who gets which --------------------------------------------------------------------------------


def queue_of(*sizes: int, done: int = 0) -> Queue:
    n = sum(sizes)
    text = pa.array([""] * n)
    cuts = np.split(np.arange(n), np.cumsum(sizes)[:-1])
    groups = [Group(f"g{i}", "suggested", f"g{i}", rows) for i, rows in enumerate(cuts)]
    return Queue(Photos(np.arange(n), text, text), groups, np.arange(n) < done)


def test_a_queue_gives_each_photo_once_and_those_that_came_back_last() -> None:
    queue = queue_of(5, 30, done=2)
    first = queue.take()
    assert first is not None
    assert (first.title, first.rows) == ("g1", list(range(5, 29)))
    second = queue.take()
    assert second is not None
    assert (second.title, second.rows) == ("g1", list(range(29, 35)))
    queue.answered(first.rows[2:])
    queue.put_back(first)
    assert (queue.n_done, queue.n_out) == (24, 6)
    third, fourth = queue.take(), queue.take()
    assert third is not None
    assert fourth is not None
    assert (third.rows, fourth.rows) == ([2, 3, 4], [5, 6])
    assert queue.take() is None
    queue.put_back(second)
    again = queue.take(1, most=4)
    assert again is not None
    assert again.rows == [29, 30, 31, 32]


def test_any_order_of_events_keeps_the_counts(opened: Callable[..., Review], tmp_path: Path, clock: Clock) -> None:
    """Three people do anything at all: no photo lies before two of them, and every answer is counted once."""
    review = opened(prepare(make_lake(tmp_path, 200, photos=False).tables, "colour", model=COARSE))
    rng = np.random.default_rng(3)
    before: dict[str, dict[str, Any]] = {}
    for _ in range(400):
        who = str(rng.choice(["ada", "ben", "eve"]))
        shown = before.get(who) or review.look(who)
        act = rng.choice(["take", "part", "undo", "later", "split"], p=[0.5, 0.1, 0.2, 0.1, 0.1])
        try:
            if act == "take" and shown["batch"]:
                before[who] = take_all(review, who, shown, "red")
            elif act == "part" and shown["batch"]:
                before[who] = review.save(who, shown["batch"]["id"], {ids_of(shown)[0]: None}, None)
            elif act in ("undo", "later", "split"):
                before[who] = getattr(review, act)(who)
        except RefusedError:
            continue
        held = [i for shown in before.values() if shown["batch"] for i in ids_of(shown)]
        assert len(held) == len(set(held))
        answered = {row for row, answers in review._said.items() if answers}
        assert review._queue.n_done == len(answered) == review.look(who)["progress"]["done"]
        assert review._queue.n_out == np.sum(review._queue._out & ~review._queue._done)
        counts = np.bincount(review._queue._group[~review._queue._done], minlength=len(review._queue._stacks))
        assert [stack.n_left for stack in review._queue._stacks] == counts.tolist()
    for who in ("ada", "ben", "eve"):
        shown = review.look(who)
        while shown["batch"]:
            shown = take_all(review, who, shown, "red")
    assert review.n_left == 0


def test_two_people_get_different_photos_and_one_who_has_gone_gives_theirs_back(
    opened: Callable[..., Review], tmp_path: Path, clock: Clock
) -> None:
    review = opened(prepare(make_lake(tmp_path, 58, photos=False).tables, "colour"))
    ada, ben = review.look("ada"), review.look("ben")
    assert not set(ids_of(ada)) & set(ids_of(ben))
    assert review.look("ada")["batch"] == ada["batch"]
    assert ben["progress"]["others"] == ["ada"]
    clock.now = 1000.0
    shown = ben
    seen: list[int] = []
    while shown["batch"]:
        seen += ids_of(shown)
        shown = take_all(review, "ben", shown)
    # Also those that lay before ada, who was not heard of for a quarter of an hour.
    assert set(ids_of(ada)) <= set(seen)
    assert len(seen) == 48
    first, *rest = ids_of(ada)
    answers = dict.fromkeys(rest, label(first)) | {first: "black"}
    late = review.save("ada", ada["batch"]["id"], answers, None)
    assert late["note"].startswith("Answered otherwise by ben (1): both answers are kept")
    assert review.n_answers == 48 + len(ids_of(ada))


def test_goal_and_pace(opened: Callable[..., Review], tmp_path: Path, clock: Clock) -> None:
    review = opened(prepare(make_lake(tmp_path, photos=False).tables, "colour"), goal=40)
    shown = review.look("ada")
    assert shown["progress"] == {"done": 0, "total": 40, "mine": 0, "seconds_left": None, "others": []}
    clock.now = 48.0
    shown = take_all(review, "ada", shown)
    assert shown["progress"] == {"done": 24, "total": 40, "mine": 24, "seconds_left": 32, "others": []}
    assert len(ids_of(shown)) == 16
    shown = take_all(review, "ada", shown)
    assert shown["batch"] is None
    assert shown["progress"]["done"] == 40


def test_a_cluster_is_named_and_split(opened: Callable[..., Review], tmp_path: Path) -> None:
    prepared = prepare(make_lake(tmp_path, 180, photos=False).tables, "colour", model=COARSE)
    review = opened(prepared)
    shown = review.look("ada")
    title = shown["batch"]["title"]
    assert shown["batch"]["value"] is None
    shown = take_all(review, "ada", shown, "crimson")
    assert "crimson" in shown["values"]
    # First the clusters that nobody has named.
    assert shown["batch"]["title"] != title
    number = next(g["number"] for g in shown["groups"] if g["title"] == title)
    shown = review.look("ada", number)
    assert (shown["batch"]["title"], shown["batch"]["value"]) == (title, "crimson")

    shown = review.split("ada")
    assert shown["note"] == f"{title} is shown in 2 parts from now on."
    parts = {g["title"]: g["number"] for g in shown["groups"] if g["title"].startswith(title)}
    assert list(parts) == [f"{title}, part 1 of 2", f"{title}, part 2 of 2"]
    shown = review.look("ada", parts[f"{title}, part 1 of 2"])
    assert len({i % 2 for i in ids_of(shown)}) == 1
    # The finer model tells no parts of a part: nearer and farther photos do.
    shown = review.split("ada")
    halves = {g["title"]: g["number"] for g in shown["groups"] if g["title"].endswith("half")}
    near, far = (ids_of(review.look("ada", n)) for n in halves.values())
    assert max(i % 11 for i in near) <= min(i % 11 for i in far)
    # A later review of the same journal knows the names.
    again = opened(prepared)
    number = next(g["number"] for g in again.look("ben")["groups"] if g["title"] == title)
    assert again.look("ben", number)["batch"]["value"] == "crimson"


# -- what is kept ----------------------------------------------------------------------------------


def test_answers_outlive_the_server_and_can_be_taken_back_by_the_next(
    opened: Callable[..., Review], tmp_path: Path
) -> None:
    prepared = prepare(make_lake(tmp_path, photos=False).tables, "colour")
    review = opened(prepared)
    first = review.look("ada")
    wrong, unclear, *rest = ids_of(first)
    answers = dict.fromkeys(rest, first["batch"]["value"]) | {wrong: "white", unclear: None}
    review.save("ada", first["batch"]["id"], answers, None)
    # The answer got lost on its way to the page, which saves again.
    again = opened(prepared)
    shown = again.save("ada", first["batch"]["id"], answers, None)
    assert shown["progress"]["done"] == 24
    assert again.n_answers == 24
    assert not set(ids_of(shown)) & set(answers)
    # What lay before the person when the server was killed is saved by the next one.
    lost = shown["batch"]
    once_more = opened(prepared)
    shown = once_more.save("ada", lost["id"], {lost["photos"][0]["id"]: "red"}, None)
    assert shown["progress"]["done"] == 25
    shown = once_more.undo("ada")
    assert (ids_of(shown), shown["batch"]["given"]) == ([lost["photos"][0]["id"]], {lost["photos"][0]["id"]: "red"})
    assert shown["note"] == "Taken back: 1 photo."
    shown = once_more.undo("ada")
    assert (shown["batch"]["given"], shown["note"]) == (answers, "Taken back: 24 photos.")
    assert shown["progress"]["done"] == 0
    with pytest.raises(RefusedError, match="there is nothing to take back"):
        once_more.undo("ada")
    assert opened(prepared).n_answers == 0


def test_the_file_to_import_has_the_last_answer_of_each_person(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite", "lake", "colour")) as journal:
        said = [Answer(1, 'a,"1".jpg', "red", "audit", "d", "2", 2.5), Answer(2, "2.jpg", None)]
        assert journal.save(Saved("a", "ada", 3.0, said))
        assert not journal.save(Saved("a", "ada", 3.0, said))
        journal.save(Saved("b", "ben", 3.0, [Answer(2, "2.jpg", "blue")]))
        journal.save(Saved("c", "ada", 3.0, [Answer(2, "2.jpg", "white")]))
        journal.save(Saved("d", "ada", 3.0, [Answer(3, "3.jpg", "white")]))
        journal.take_back("d")
        text, n = journal.text()
        assert text.splitlines() == [
            "path,attribute,value,annotator,purpose,draw,stratum,weight",
            '"a,""1"".jpg",colour,red,ada,audit,d,2,2.5',
            "2.jpg,colour,white,ada,train,,,",
            "2.jpg,colour,blue,ben,train,,,",
        ]
        assert n == 3
        journal.clear()
        assert journal.batches() == []


def test_a_journal_belongs_to_one_review_at_a_time(tmp_path: Path) -> None:
    file = journal_file(tmp_path / "lake", "colour")
    with closing(Journal(file, "lake", "colour")) as journal:
        token = journal.token
        assert file.stat().st_mode & 0o077 == 0
        with pytest.raises(LakeError, match="another review of colour has it open"):
            Journal(file, "lake", "colour")
    with closing(Journal(file, "lake", "colour")) as journal:
        assert journal.token == token
    with pytest.raises(LakeError, match="belongs to the lake lake, not other: name another file"):
        Journal(file, "other", "colour")
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one " * 20)
    with pytest.raises(LakeError, match="is no journal of a review"):
        Journal(tmp_path / "text", "lake", "colour")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LakeError, match="cannot be opened"):
        Journal(tmp_path / "folder", "lake", "colour")


def test_what_cannot_be_an_answer_changes_nothing(opened: Callable[..., Review], tmp_path: Path) -> None:
    prepared = prepare(
        make_lake(tmp_path, photos=False).tables, "colour", config=AttributeConfig(values=("red", "blue"))
    )
    review = opened(prepared)
    shown = review.look("ada")
    batch, photo = shown["batch"]["id"], ids_of(shown)[0]
    for answers, message in (
        ({photo: "pink"}, "'pink': is no value of colour: the config lists them"),
        ({10**30: "red"}, "photos that this review does not show"),
        ({-5: "red"}, "photos that this review does not show"),
        ({}, "0 answers: a batch has 1 to 24"),
        ({119: "red"}, "photos that this review does not show"),
        ({ids_of(review.look("ben"))[0]: "red"}, "photos that were not shown"),
    ):
        with pytest.raises(RefusedError, match=message):
            review.save("ada", batch, answers, None)
    for who in ("", " ", "a\nb", "a" * 61):
        with pytest.raises(RefusedError, match="a name has 1 to 60 characters"):
            review.look(who)
    assert review.n_answers == 0
    free = opened(prepare(make_lake(tmp_path / "free", photos=False).tables, "colour"))
    batch, photo = free.look("ada")["batch"]["id"], ids_of(free.look("ada"))[0]
    for value in ("?", "", " red", "a\nb", "a" * 101):
        with pytest.raises(RefusedError, match="a value is a text of 1 to 100 characters"):
            free.save("ada", batch, {photo: value}, None)


# -- who may ask -----------------------------------------------------------------------------------

TOKEN = "t0ken"


@dataclass(frozen=True)
class Answered:
    status: int
    headers: http.client.HTTPMessage
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """Asks a server that runs in a thread; paths go out as they are."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.here = f"http://127.0.0.1:{port}"
        self.cookie = ""

    def ask(self, method: str, path: str, body: bytes | str = b"", **headers: str) -> Answered:
        given = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie} | headers
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.putrequest(method, path, skip_host=True)
            data = body.encode() if isinstance(body, str) else body
            for name, value in (given | {"Content-Length": str(len(data))}).items():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return Answered(answer.status, answer.headers, answer.read().decode(errors="replace"))

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, **headers)

    def post(self, what: str, **asked: Any) -> Answered:
        return self.ask("POST", f"/ask/{what}", json.dumps(asked), Origin=self.here)

    def enter(self) -> Client:
        answer = self.get(f"/?token={TOKEN}")
        assert answer.status == 200
        self.cookie = answer.headers["set-cookie"].split(";")[0]
        return self


@contextmanager
def serving(review: Review, photos: Path) -> Iterator[Client]:
    with bound("127.0.0.1", 0) as listening:
        listening.listen()
        port = listening.getsockname()[1]
        app = build_app(review, open_images(str(photos)), TOKEN, port, "ada", ["reviews.example"])
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("review")
    made = make_lake(folder, 60, annotations=[{"image_id": 59, "value": "red"}])
    (folder / "secret.jpg").write_bytes((made.photos / path_of(0)).read_bytes())
    (made.photos / path_of(1)).unlink()
    (made.photos / path_of(2)).unlink()
    (made.photos / path_of(2)).symlink_to(folder / "secret.jpg")
    return made


@pytest.fixture
def client(made: Made, tmp_path: Path) -> Iterator[Client]:
    with (
        closing(Journal(tmp_path / "j.sqlite", "lake", "colour")) as journal,
        serving(Review(prepare(made.tables, "colour"), journal, "colour"), made.photos) as client,
    ):
        yield client


def test_the_address_s_token_becomes_a_cookie(client: Client) -> None:
    for path in ("/", "/?token=wrong", "/?token=", "/about", "/static/review.js", "/photo/3", "/nothing"):
        assert client.get(path).status == 403, path
    assert client.post("look", who="ada").status == 403
    answer = client.get(f"/?token={TOKEN}")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"motorpool-review-{client.port}={TOKEN};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    # The token opens the page alone, and nothing else by its address.
    assert client.get(f"/about?token={TOKEN}").status == 403
    client.enter()
    assert client.get("/").status == 200
    assert client.get("/static/review.css").headers["content-type"].startswith("text/css")


def test_names_that_lead_here_from_elsewhere_are_refused(client: Client) -> None:
    client.enter()
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "localhost.evil.example"):
        assert client.get("/about", Host=host).status == 403, host
    for host in ("127.0.0.1:8765", "localhost:9000", "[::1]:8765", "reviews.example"):
        assert client.get("/about", Host=host).status == 200, host


def test_only_the_page_itself_may_write(client: Client) -> None:
    client.enter()
    asked = json.dumps({"who": "ada"})
    assert client.ask("POST", "/ask/look", asked).status == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{client.port}"):
        assert client.ask("POST", "/ask/look", asked, Origin=origin).status == 403, origin
    assert client.ask("POST", "/ask/look", asked, Origin=client.here).status == 200


def test_no_path_leads_out_of_the_photos(client: Client) -> None:
    client.enter()
    assert client.get("/photo/3").headers["content-type"] == "image/jpeg"
    assert client.get("/photo/3?large").status == 200
    found = [client.get(f"/photo/{i}") for i in (1, 2, 59)]
    assert [(a.status, a.text) for a in found] == [
        (404, "there is no such file"),
        (404, "a link leads out of the folder of photos"),
        (404, "no photo of this review"),
    ]
    for path in (
        "/photo/../../secret.jpg", "/photo/..%2f..%2fsecret.jpg", f"/photo/{path_of(0)}", "/photo/-1",
        f"/photo/{10**40}", "/static/../app.py", "/static/..%2fapp.py", "/static/%2fetc%2fpasswd",
    ):  # fmt: skip
        assert client.get(path).status == 404, path


def test_requests_that_are_none_are_refused(client: Client) -> None:
    client.enter()
    photo = {"id": 3, "value": "red"}
    saved = {"who": "ada", "batch": "b", "answers": [photo], "take": None}
    for what, body, status in (
        ("look", b"{", 400), ("look", b"[]", 400), ("look", b'{"who": 3}', 400), ("look", b"[" * 100_000, 400),
        ("look", b'{"who": "ada", "group": "x"}', 400), ("look", b" " * 300_000, 413),
        ("look", b'{"who": "ada", "group": 99}', 200), ("nothing", b'{"who": "ada"}', 404),
        ("look", b'{"who": ""}', 409), ("save", json.dumps(saved | {"answers": [{"id": True, "value": "x"}]}), 400),
        ("save", json.dumps(saved | {"answers": [{"id": 3}]}), 400),
        ("save", json.dumps(saved | {"answers": [photo, photo]}), 400),
        ("save", json.dumps(saved | {"batch": "b" * 65}), 400), ("save", json.dumps(saved | {"take": 3}), 400),
        ("save", json.dumps(saved), 200),
    ):  # fmt: skip
        answer = client.ask("POST", f"/ask/{what}", body, Origin=client.here)
        assert answer.status == status, (what, body[:80], answer.text)
    assert client.get("/ask/look").status == 405


def test_four_people_at_once_lose_nothing(client: Client) -> None:
    client.enter()
    taken: dict[str, list[int]] = {}
    failures: list[str] = []

    def work(who: str) -> None:
        own = taken.setdefault(who, [])
        answer = client.post("look", who=who)
        while answer.status == 200 and (batch := answer.json()["batch"]) is not None:
            answers = [{"id": p["id"], "value": batch["value"]} for p in batch["photos"][:5]]
            answer = client.post("save", who=who, batch=batch["id"], answers=answers, take=None)
            own += [a["id"] for a in answers]
        if answer.status != 200:
            failures.append(answer.text)

    threads = [threading.Thread(target=work, args=(f"person {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(i for own in taken.values() for i in own) == list(range(50))
    assert client.post("look", who="ada").json()["progress"]["done"] == 50


# -- how fast --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, COARSE], ids=["labels", "clusters"])
def test_a_page_turn_at_the_real_case_s_size_takes_less_than_300_ms(tmp_path: Path, model: str | None) -> None:
    prepared = prepare(write_many(tmp_path / "lake", 416_314), "type", model=model)
    seconds = []
    with (
        closing(Journal(tmp_path / "j.sqlite", "lake", "type")) as journal,
        serving(Review(prepared, journal, "type"), tmp_path) as client,
    ):
        answer = client.enter().post("look", who="ada")
        for _ in range(100):
            batch = answer.json()["batch"]
            answers = [{"id": p["id"], "value": "value 3"} for p in batch["photos"]]
            began = time.perf_counter()
            answer = client.post("save", who="ada", batch=batch["id"], answers=answers, take="value 3")
            seconds.append(time.perf_counter() - began)
        assert answer.json()["progress"]["done"] == 2400
    assert np.median(seconds) < 0.3

"""The page in a real Chromium, before a real server that is killed in between."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from motorpool.review.journal import Journal, journal_file
from review_lake import COARSE, NAMES, Made, label, make_lake

pytest.importorskip("uvicorn", reason="the extra `review` is not installed")

DESK = {"width": 1366, "height": 768}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_lake(tmp_path)


class Served:
    """`motorpool review` in a process of its own."""

    def __init__(self, made: Made, *options: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "motorpool.cli", "review", "--lake", made.lake, "--images", str(made.photos)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--no-import", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\S+", line):
                self.url, self.port = found[0], int(found[1])
                return
        raise AssertionError(self.said)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)[0]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*args: Any, **options: Any) -> Served:
        started.append(Served(*args, **options))
        return started[-1]

    yield start
    for served in started:
        with contextlib.suppress(ProcessLookupError):
            served.kill()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page as a person; the test fails for errors of the page, and for requests to anybody else."""
    errors: list[str] = []
    contexts = []

    def open_page(served: Served, who: str, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": DESK} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: errors.append(str(e)))
        # A server that was killed, photos that are not there, and refusals are told by the page as well.
        page.on(
            "console",
            lambda m: errors.append(m.text) if m.type == "error" and "Failed to load resource" not in m.text else None,
        )
        page.on("request", lambda r: None if r.url.startswith(("http://127.0.0.1", "data:")) else errors.append(r.url))
        page.goto(served.url)
        page.fill("#name", who)
        page.keyboard.press("Enter")
        page.locator(".photo").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def shown(page: Any) -> list[int]:
    """The images in the grid."""
    sources = page.eval_on_selector_all(".photo img", "all => all.map(i => i.src)")
    return [int(source.split("/photo/")[1].split("?")[0]) for source in sources]


def progress(page: Any, text: str) -> None:
    """Wait until the page says so."""
    page.wait_for_function("text => document.getElementById('progress').textContent.startsWith(text)", arg=text)


def answers(made: Made) -> dict[int, str | None]:
    with closing(Journal(journal_file(made.tables.folder, "colour"), made.lake, "colour")) as journal:
        return {a.image_id: a.value for saved in journal.batches() for a in saved.answers}


def test_by_keyboard_and_through_a_killed_server(
    made: Made, serve: Callable[..., Served], opened: Callable[..., Any]
) -> None:
    served = serve(made)
    page = opened(served, "ada")
    first = shown(page)
    value = label(first[0])
    assert page.locator("h1#title").inner_text() == f"colour: all {value}?"
    assert page.url == f"http://127.0.0.1:{served.port}/"
    assert page.evaluate("document.cookie") == ""
    assert page.locator("#progress").inner_text() == "0 of 110"
    columns = page.evaluate("getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length")

    # Two are wrong; what they are is given to both at once, taken back, and given again.
    other = next(name for name in NAMES if name != value)
    digit = str(NAMES.index(other) + 1)
    press(page, "ArrowRight", " ", "ArrowDown", " ")
    assert page.locator(".photo[aria-pressed=true]").count() == 2
    press(page, "Enter")
    assert page.locator("#note").inner_text() == "2 marked photos have no value yet: give them one, or “cannot be told”"
    press(page, digit)
    assert page.locator(".badge:not(:empty)").all_inner_texts() == [other, other]
    assert page.locator("#take span").inner_text() == f"Save 22 {value}, 2 {other}"
    press(page, "u")
    assert page.locator(".photo[aria-pressed=true]").count() == 2
    press(page, digit, "Enter")
    progress(page, "24 of 110, about 1 minute left")
    assert page.locator("#note").inner_text() == f"Saved: 22 {value}, 2 {other}."
    said = dict.fromkeys(first, value) | {first[1]: other, first[1 + columns]: other}

    # Take all; then it cannot be told of any, which is taken back after it was saved.
    second = shown(page)
    said |= {i: label(second[0]) for i in second}
    press(page, "Enter")
    progress(page, "48 of 110")
    third = shown(page)
    press(page, "0", "Enter")
    progress(page, "72 of 110")
    press(page, "u")
    progress(page, "48 of 110")
    assert shown(page) == third
    assert page.locator("h1#title").inner_text() == "colour: cannot be told?"

    # The server is killed; the page says so, keeps what was done on it, and saves it to the next server.
    press(page, str(NAMES.index("white") + 1))
    served.kill()
    press(page, "Enter")
    page.locator("#note", has_text="Not saved, and nothing is lost: press Enter to try again").wait_for()
    served = serve(made, port=served.port)
    assert "48 answers of an earlier review, not imported yet" in served.said
    press(page, "Enter")
    progress(page, "72 of 110")
    said |= dict.fromkeys(third, "white")
    served.kill()

    # All that was shown as saved is there, for the reloaded page and in the journal.
    assert answers(made) == said
    served = serve(made, port=served.port)
    page.reload()
    progress(page, "72 of 110")
    assert not set(shown(page)) & set(said)
    press(page, "u")
    progress(page, "48 of 110")
    assert sorted(shown(page)) == sorted(third)
    assert "keeps 48 answers" in served.stop()
    assert answers(made) == {i: v for i, v in said.items() if i not in third}


def test_a_key_that_is_held_down_saves_once(
    made: Made, serve: Callable[..., Served], opened: Callable[..., Any]
) -> None:
    page = opened(serve(made), "ada")
    page.keyboard.down("Enter")
    progress(page, "24 of 110")
    for _ in range(5):
        page.keyboard.down("Enter")
    page.wait_for_timeout(300)
    progress(page, "24 of 110")


def test_two_people_do_not_lose_each_other_s_looks(
    made: Made, serve: Callable[..., Served], opened: Callable[..., Any]
) -> None:
    served = serve(made)
    ada, ben = opened(served, "ada"), opened(served, "ben")
    seen: dict[str, list[int]] = {"ada": [], "ben": []}
    for n in range(1, 5):
        for who, page in (("ada", ada), ("ben", ben)):
            if page.locator("#end").is_visible():
                continue
            seen[who] += shown(page)
            press(page, "Enter")
            progress(page, f"{len(seen['ada']) + len(seen['ben'])} of 110")
        assert n < 4 or ada.locator("#end").is_visible()
    assert not set(seen["ada"]) & set(seen["ben"])
    assert sorted(seen["ada"] + seen["ben"]) == list(range(110))
    assert ", with ada" in ben.locator("#progress").inner_text()
    ben.reload()
    ben.locator("#end-title").wait_for()
    assert ben.locator("#end-title").inner_text() == "All photos are looked at"
    assert not ben.locator("#again").is_visible()
    served.stop()
    assert len(answers(made)) == 110


def test_a_cluster_is_named_split_and_found_again(
    made: Made, serve: Callable[..., Served], opened: Callable[..., Any]
) -> None:
    page = opened(serve(made, "--attribute", "colour", "--model", COARSE), "ada")
    title = "cluster 0: reddish <b>cars</b>"
    assert page.locator("h1#title").inner_text() == f"{title}: what are these?"
    press(page, "Enter")
    assert page.locator("#note").inner_text().startswith("Nothing has a value yet")
    # A new value, which stays text.
    evil = "<img src=x onerror=window.hacked=1>"
    press(page, "/")
    page.fill("#text", evil)
    press(page, "Enter")
    assert page.locator("h1#title").inner_text() == f"{title}: all {evil}?"
    press(page, "Enter")
    progress(page, "24 of 120")
    assert page.locator("#note").inner_text() == f"Saved: 24 {evil}."
    assert page.locator("#values button", has_text=evil).count() == 1
    assert "cluster 1" in page.locator("h1#title").inner_text()
    press(page, "s")
    page.locator("#note", has_text="2 parts from now on").wait_for()
    assert page.evaluate("window.hacked") is None
    page.select_option("#groups", label=f"{title} (18 left)")
    page.wait_for_function("title => document.getElementById('title').textContent.startsWith(title)", arg=title)
    assert page.locator("h1#title").inner_text() == f"{title}: all {evil}?"


def test_on_a_phone(made: Made, serve: Callable[..., Served], opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened(serve(made), "ada", **PHONE)
    first = shown(page)
    page.locator(".photo").nth(3).tap()
    assert page.locator(".photo[aria-pressed=true]").count() == 1
    other = next(name for name in NAMES if name != label(first[0]))
    page.locator("#values button", has_text=other).tap()
    assert page.locator(".badge:not(:empty)").all_inner_texts() == [other]
    page.screenshot(path=str(tmp_path / "phone.png"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tile, take = page.locator(".photo").first.bounding_box(), page.locator("#take").bounding_box()
    assert tile["width"] >= 110
    assert take["height"] >= 38
    assert take["y"] + take["height"] <= 844
    page.locator("#take").tap()
    progress(page, "24 of 110")
    page.locator("#undo").tap()
    progress(page, "0 of 110")
    assert page.locator("#note").inner_text() == "Taken back: 24 photos."
    assert shown(page) == first
    # A long press shows the photo large.
    box = page.locator(".photo").nth(1).bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.locator("#large[open]").wait_for()
    page.mouse.up()
    assert page.locator(".photo[aria-pressed=true]").count() == 0


def test_photos_that_cannot_be_shown_say_why(
    made: Made, serve: Callable[..., Served], opened: Callable[..., Any]
) -> None:
    shutil.rmtree(made.photos)
    made.photos.mkdir()
    page = opened(serve(made), "ada")
    page.locator(".gone", has_text="there is no such file").nth(23).wait_for()


def test_beginners_mistakes_are_told_before_anything_starts(made: Made) -> None:
    for options, message in (
        (["--lake", made.lake], "--images: is missing: the folder or zip in which the photos lie"),
        (["--lake", made.lake, "--images", "/nowhere"], "/nowhere: there is no such folder or file of photos"),
        (["--lake", made.lake, "--images", str(made.photos), "--all", "--model", "x"], "give one of them"),
        (["--lake", made.lake, "--images", str(made.photos), "--attribute", "../x"], "expected a name of letters"),
    ):
        command = [sys.executable, "-m", "motorpool.cli", "review", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (1, 2)
        assert message in done.stderr
    assert not journal_file(made.tables.folder, "colour").exists()

"""Swaps of partitions: an error or a kill at every single step leaves the rows before, at once or at the next start."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from motorpool.errors import LakeError
from motorpool.lake import locks, swaps
from motorpool.lake.parquet import ParquetFolder

BEFORE = {"model_id=a": "old a", "model_id=b": "old b", "model_id=c": "old c"}
AFTER = {"model_id=a": "new a", "model_id=c": "old c", "model_id=d": "new d"}
OUT, INTO = [Path("model_id=a"), Path("model_id=b")], [Path("model_id=a"), Path("model_id=d")]
#: Every change of the file system that Python announces.
STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def put(folder: Path, partitions: dict[str, str]) -> None:
    for name, text in partitions.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "part.parquet").write_text(text)


def found(lake: Path) -> dict[str, str]:
    return {p.name: (p / "part.parquet").read_text() for p in (lake / "labels").iterdir()}


def lake_with_draft(folder: Path) -> swaps.Draft:
    put(folder / "labels", BEFORE)
    draft = swaps.Draft.of(folder / "labels")
    put(draft.rows, {"model_id=a": "new a", "model_id=d": "new d"})
    return draft


def stopped_at(work: object, step: int, how: str) -> int:
    """Do ``work`` in a child that fails at a step: once, for ever after, or by a kill; its exit status.

    0 where the work went well, 3 where it raised.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: object) -> None:
            nonlocal seen
            if event not in STEPS:
                return
            seen += 1
            if how == "kill" and seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            if seen == step or (how == "errors" and seen > step):
                raise OSError("injected")

        sys.addaudithook(hook)
        try:
            work()  # type: ignore[operator]
        except BaseException:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("how", ["error", "errors", "kill"])
def test_a_swap_stopped_at_any_step_is_done_or_undone(tmp_path: Path, how: str) -> None:
    step, status = 0, -1
    while status != 0:
        step += 1
        lake = tmp_path / str(step)
        draft = lake_with_draft(lake)
        status = stopped_at(lambda draft=draft: swaps.swap(draft, OUT, INTO), step, how)
        if how == "error" and status == 3:
            # Put back at once.
            assert found(lake) == BEFORE
        swaps.recover(lake, ["labels"])
        assert found(lake) == (AFTER if status == 0 else BEFORE), step
        assert [p.name for p in lake.iterdir()] == ["labels"]
    # A folder for the old ones, the note, two pairs of renames less two, and the note's end.
    assert step == 8


@pytest.mark.parametrize("how", ["errors", "kill"])
def test_undoing_can_be_stopped_at_any_step_and_done_again(tmp_path: Path, how: str) -> None:
    step, status = 0, -1
    while status != 0:
        step += 1
        lake = tmp_path / str(step)
        draft = lake_with_draft(lake)
        # Before the last rename: everything else has moved.
        assert stopped_at(lambda draft=draft: swaps.swap(draft, OUT, INTO), 6, "kill") == -signal.SIGKILL
        assert swaps.stopped(lake, ["labels"]) == ["labels"]
        status = stopped_at(lambda lake=lake: swaps.recover(lake, ["labels"]), step, how)
        if status != 0:
            swaps.recover(lake, ["labels"])
        assert found(lake) == BEFORE
        swaps.recover(lake, ["labels"])
        assert [p.name for p in lake.iterdir()] == ["labels"]
    assert step > 5


def test_the_next_writer_puts_back_and_a_second_one_is_refused(tmp_path: Path) -> None:
    draft = lake_with_draft(tmp_path)
    assert stopped_at(lambda: swaps.swap(draft, OUT, INTO), 4, "kill") == -signal.SIGKILL
    assert found(tmp_path) != BEFORE
    tables = ParquetFolder(None, str(tmp_path))  # type: ignore[arg-type]
    with tables.held():
        assert found(tmp_path) == BEFORE
        # A hold of this very process may be shared.
        with ParquetFolder(None, str(tmp_path)).held():  # type: ignore[arg-type]
            pass
        assert locks.acquire(tmp_path) is None
        assert locks.holder(tmp_path).startswith(f"process {os.getpid()} on ")
    hold = locks.acquire(tmp_path)
    assert hold is not None
    with (
        pytest.raises(LakeError, match=r"is being written by .*one run at a time.*when that one has ended"),
        tables.held(),
    ):
        pass
    hold.release()
    with tables.held():
        pass


def test_a_lock_ends_with_a_killed_holder_though_its_children_live(tmp_path: Path) -> None:
    read, write = os.pipe()
    holder = os.fork()
    if holder == 0:
        kept = locks.acquire(tmp_path)
        child = os.fork()
        if child == 0:
            signal.pause()
        os.write(write, f"{kept is not None} {child}".encode())
        signal.pause()
    held, child = os.read(read, 100).decode().split()
    try:
        assert held == "True"
        assert locks.acquire(tmp_path) is None
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        hold = locks.acquire(tmp_path)
        assert hold is not None
        hold.release()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_lake_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "lake", Path("/proc/lake")):
        with pytest.raises(LakeError, match=f"lake.path {path}: cannot be written: "):
            ParquetFolder(None, str(path)).held().__enter__()  # type: ignore[arg-type]

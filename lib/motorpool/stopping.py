"""How a program that was told to stop ends: Ctrl-C and SIGTERM give one sentence and one exit status, at any moment.

Without Spark at work the signal is a KeyboardInterrupt, and what is open is closed. With Spark at work it ends the
process and all that the process has started, at once: a call of the JVM that is broken off leaves nothing to clean up
by, since the connection then answers other questions than are asked. What was being written is as after a kill.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

#: The exit status of a command that was stopped: shells give one that Ctrl-C ends 128 and the signal's number.
STATUS = 128 + signal.SIGINT
SENTENCE = "Stopped. The same command goes on from here."

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds that a JVM may take to remove its temporary files.
_PATIENCE = 5.0
#: On a terminal: from the start of the line, which it clears, with the cursor shown.
_CLEAR_LINE = "\r\x1b[2K\x1b[?25h"

#: Whether processes may be at work whose end is ours to see to.
_at_work = False
#: Whether the sentence is out.
_said = False
#: Files and folders that go with the process, where it ends at once.
_temporary: set[Path] = set()


def listen() -> dict[int, Any]:
    """Take the signals from now on; returns who had them, for `give_back`.

    A signal that is ignored stays so: `nohup` and a shell's background jobs ask for that. Only a main thread can do it.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _stop)
    return before


def is_listening() -> bool:
    """Whether a signal would be ours now."""
    return signal.getsignal(signal.SIGINT) is _stop


def give_back(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def end_all_from_now_on(*, own_jvm: bool) -> None:
    """From now on a signal ends the process at once: to be called before Spark's JVM is started, or joined.

    With ``own_jvm`` this process has processes below it that end with it.
    """
    global _at_work
    if own_jvm:
        # At the moment of the stop is no time to find that it is missing.
        import psutil  # noqa: F401
    _at_work = True


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Within the block, which leaves nothing to clean up, a signal ends the process where it is."""
    global _at_work
    before, _at_work = _at_work, True
    try:
        yield
    finally:
        _at_work = before


def finish(status: int) -> None:
    """The work is done and told: from now on a signal cuts short how Python ends, whose status this is."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        _leave(0, status)

    for number in listen():
        signal.signal(number, leave)


@contextmanager
def removed_at_stop(path: Path) -> Iterator[None]:
    """Let a temporary file or folder go with the process, where it ends at once before the block does."""
    _temporary.add(path)
    try:
        yield
    finally:
        _temporary.discard(path)


@contextmanager
def asked(told: Callable[[], None]) -> Iterator[None]:
    """Within the block the first signal calls ``told`` alone: for servers, which end by being asked to.

    The next one is a stop as everywhere.
    """

    def once(number: int, frame: FrameType | None) -> None:
        listen()
        told()

    before = listen()
    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        give_back(before)


def end() -> NoReturn:
    """Say so, and end this process and all that it has started."""
    with suppress(ValueError):
        for number in _SIGNALS:
            signal.signal(number, _kill)
    _say(SENTENCE)
    # What loses its JVM tells so at length.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _leave(_PATIENCE, STATUS)


def end_if_at_work() -> None:
    """`end` where Spark is, or may be, at work: after a KeyboardInterrupt that came by another way."""
    if _at_work:
        end()


def _say(sentence: str) -> None:
    """Print a sentence to stderr, once, from wherever a signal comes: no buffer, no lock."""
    global _said
    if _said:
        return
    _said = True
    with suppress(OSError):
        lead = _CLEAR_LINE if os.isatty(2) else ""
        os.write(2, f"{lead}{sentence}\n".encode())


def _stop(number: int, frame: FrameType | None) -> None:
    if _at_work:
        end()
    # Whoever presses twice does not wait for what is being closed.
    for other in _SIGNALS:
        signal.signal(other, _kill)
    raise KeyboardInterrupt


def _kill(number: int, frame: FrameType | None) -> NoReturn:
    _say(SENTENCE)
    _leave(0, STATUS)


def _leave(patience: float, status: int) -> NoReturn:
    """End all processes below this one, remove what is temporary, and end."""
    with suppress(Exception):
        _end_children(patience)
    for path in list(_temporary):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    os._exit(status)


def _end_children(patience: float) -> None:
    """End all processes below this one: the JVM by a signal that lets it remove its files, if it does so in time."""
    import psutil

    below = psutil.Process().children(recursive=True)
    if patience:
        for process in below:
            with suppress(psutil.Error):
                process.terminate()
        _, below = psutil.wait_procs(below, timeout=patience)
    for process in below:
        with suppress(psutil.Error):
            process.kill()

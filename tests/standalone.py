"""A Spark standalone cluster on this machine: a master and workers, each a process with an address of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
#: Every address of 127/8 is this machine: to Spark two of them are two machines, whose losses it tells apart.
MASTER, HOSTS = "127.0.0.1", ("127.0.0.2", "127.0.0.3")
#: What a first executor takes to start on a machine that is busy with something else.
PATIENCE = 600.0

T = TypeVar("T")


def addresses_missing() -> str | None:
    """Why two workers cannot have addresses of their own here; None where they can."""
    for host in HOSTS:
        with socket.socket() as s:
            try:
                s.bind((host, 0))
            except OSError as exc:
                return f"cannot bind {host}, which this test takes for a machine of its own: {exc}"
    return None


def wait_for(what: str, look: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """The first true answer of ``look``, asked for many times a second; else a TimeoutError naming ``what``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


def free_port(host: str = MASTER) -> int:
    with socket.socket() as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port


def ask(url: str) -> Any:
    """The JSON at a Spark web address, None while nobody answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
        return None


def bare_python(folder: Path) -> Path:
    """A Python that sees the packages of this one, but not what is installed from a source tree."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # Lines of a .pth file add folders; the .pth files inside these, which editable installs are, are not followed.
    here = [p for p in sys.path if p.endswith("-packages")]
    (site / "packages.pth").write_text("\n".join(here))
    return folder / "bin" / "python"


@dataclass
class Cluster:
    """One master, and workers of one core each; all of them end with `running`."""

    folder: Path
    python: Path
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    #: What was submitted, each a process that ends with the cluster.
    drivers: list[Driver] = field(default_factory=list)
    _others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _started: int = 0

    @classmethod
    @contextmanager
    def running(cls, folder: Path, python: Path) -> Iterator[Cluster]:
        cluster = cls(folder, python)
        try:
            cluster._start_master()
            for host in HOSTS:
                cluster.start_worker(host)
            wait_for("two workers", lambda: cluster.alive() == len(HOSTS))
            yield cluster
        finally:
            submitted = [driver.process for driver in cluster.drivers]
            for process in [*submitted, *cluster.workers.values(), *cluster._others]:
                _kill_group(process)

    @property
    def url(self) -> str:
        return f"spark://{MASTER}:{self.port}"

    def alive(self) -> int:
        """Workers that the master counts on."""
        state = ask(f"http://{MASTER}:{self.web_port}/json/")
        return int(state["aliveworkers"]) if state else 0

    def start_worker(self, host: str) -> None:
        args = ("--host", host, "--webui-port", "0", "--cores", "1", "--memory", "1g", "--work-dir", self.folder / host)
        self.workers[host] = self._start("worker.Worker", *args, self.url)

    def kill_worker(self, host: str) -> None:
        """As if the machine had lost its power: worker, executor and Python processes at once."""
        lost = self.workers.pop(host)
        below = psutil.Process(lost.pid).children(recursive=True)
        _kill_group(lost)
        for process in below:
            # What we look at may end at any moment.
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def busy_python(self) -> psutil.Process | None:
        """A Python process that is at work on a task: a child of an executor's daemon, which is Python too."""
        for worker in self.workers.values():
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(worker.pid).children(recursive=True):
                    parent = process.parent()
                    forked = parent is not None and "pyspark.daemon" in parent.cmdline()
                    if forked and process.status() == psutil.STATUS_RUNNING:
                        return process
        return None

    def _start_master(self) -> None:
        args = ("--host", MASTER, "--port", self.port, "--webui-port", self.web_port)
        self._others.append(self._start("master.Master", *args))
        wait_for("the master", lambda: ask(f"http://{MASTER}:{self.web_port}/json/"))

    def _start(self, name: str, *args: object) -> subprocess.Popen[bytes]:
        self._started += 1
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYSPARK_GATEWAY_PORT", "SPARK_MASTER")}
        with open(self.folder / f"{self._started:02d}-{name}.log", "wb") as log:
            return subprocess.Popen(
                [SPARK_HOME / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", *map(str, args)],
                env={**env, "SPARK_HOME": str(SPARK_HOME), "SPARK_DAEMON_MEMORY": "256m"},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its executors join its process group, so one signal reaches all of them.
                start_new_session=True,
            )


class Driver:
    """A running spark-submit: ``said`` is what the job prints, ``spark_log`` what Spark logs."""

    def __init__(self, command: list[str], folder: Path, name: str, env: dict[str, str], ui_port: int) -> None:
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self._api = f"http://{MASTER}:{ui_port}/api/v1/applications"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def spark_log(self) -> str:
        return self._err.read_text(errors="replace")

    def executors(self) -> dict[str, dict[str, Any]]:
        """What Spark tells of the executors that are alive, by host."""
        applications = ask(self._api)
        listed = ask(f"{self._api}/{applications[0]['id']}/executors") if applications else None
        return {e["hostPort"].split(":")[0]: e for e in listed or [] if e["id"] != "driver" and e["isActive"]}

    def until_said(self, text: str) -> None:
        """Return as soon as the job has printed ``text``; fails where it ends without."""
        wait_for(f"{text!r}", lambda: text in self.said or self._ended())
        assert text in self.said, f"the job ended before it said {text!r}:\n{self.tail()}"

    def until_a_task_has_run(self) -> str:
        """A host on which a task has started since this was called."""
        before = {host: e["totalTasks"] for host, e in self.executors().items()}

        def busy() -> str | None:
            assert not self._ended(), self.tail()
            return next((h for h, e in self.executors().items() if e["totalTasks"] > before.get(h, 0)), None)

        return wait_for("a task", busy)

    def finish(self) -> int:
        return self.process.wait(PATIENCE)

    def tail(self) -> str:
        return f"{self.said[-3000:]}\n{self.spark_log[-3000:]}"

    def _ended(self) -> bool:
        return self.process.poll() is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)

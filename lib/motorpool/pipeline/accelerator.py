"""Which backend a run takes: what `accelerator` asks for, and what the executors have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from pyspark.sql import SparkSession

from motorpool.backend.layouts import needs_cuml
from motorpool.backend.needs import CUML, CUPY, INSTALL, missing
from motorpool.backend.protocol import CPU, GPU, Backend
from motorpool.config.run import Config
from motorpool.errors import EnvironmentMissingError
from motorpool.spark.hosts import ask_hosts
from motorpool.spark.session import shares_python

log = logging.getLogger(__name__)

#: What each host lacks, by its name; a host that has all is there with an empty list.
Lacks = Mapping[str, Sequence[str]]


def choose_backend(
    spark: SparkSession, config: Config, ask: Callable[[SparkSession, Sequence[str]], Lacks] | None = None
) -> Backend:
    """The backend that ``config.accelerator`` asks for: ``cpu``, ``gpu``, or ``auto``, the GPU where all have one.

    Everything that a GPU is used for runs on executors, so these are asked, by a small Spark job (``ask``); the driver
    needs none. What is taken, and why, is logged. EnvironmentMissingError where ``gpu`` is asked for and a host lacks
    something, with the host, what it lacks and how to install it.
    """
    if config.accelerator == "cpu":
        log.debug("accelerator: cpu, as the config says")
        return CPU
    # Where tasks run in this very Python there is no need to ask them what is installed.
    alone = shares_python(str(spark.conf.get("spark.master", "")))
    if config.accelerator == "auto" and alone and find_spec(CUPY) is None:
        log.info("accelerator: auto takes cpu: cupy is not installed on this machine")
        return CPU
    lacks = (ask or ask_executors)(spark, needed(config))
    lacking = {host: problems for host, problems in lacks.items() if problems}
    if not lacking and lacks:
        log.info("accelerator: gpu, which %s", _are_there(lacks))
        return GPU
    reason = _word(lacking) or "no executor answered"
    if config.accelerator == "gpu":
        raise EnvironmentMissingError(
            f"accelerator: gpu: {reason}. Packages: {INSTALL}, on every executor; a driver of NVIDIA's for CUDA 12 or "
            "newer; Spark must give executors their GPUs (conf/spark/standalone_gpu.conf). Or set accelerator: cpu"
        )
    log.info("accelerator: auto takes cpu: %s", reason)
    return CPU


def needed(config: Config) -> list[str]:
    """The modules that a run on a GPU imports on executors: beside cupy those of maps and of engines."""
    maps = [CUML] if config.projections is not None and needs_cuml(config.projections.methods) else []
    return list(dict.fromkeys([CUPY, *maps, *engine_modules(config)]))


def engine_modules(config: Config) -> list[str]:
    """The modules that engines of feature sets and of grids import, each once."""
    asked = [s.gpu_modules for s in config.features] + [grid.gpu_modules for grid in config.cluster.models]
    return list(dict.fromkeys(module for modules in asked for module in modules))


def ask_executors(spark: SparkSession, modules: Sequence[str]) -> Lacks:
    """What each executor's host lacks (see `ask_hosts`)."""
    return ask_hosts(spark, lambda: missing(modules))


def _are_there(lacks: Lacks) -> str:
    return f"{len(lacks)} host(s) have: {', '.join(lacks)}"


def _word(lacking: Lacks) -> str:
    """What is lacking, and where."""
    hosts: dict[str, list[str]] = {}
    for host, problems in lacking.items():
        for problem in problems:
            hosts.setdefault(problem, []).append(host)
    return "; ".join(f"{problem} on {', '.join(names)}" for problem, names in hosts.items())

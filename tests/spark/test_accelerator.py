"""Which backend a run takes, and what it says where a GPU, a driver or a package is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from motorpool.backend import device as devices
from motorpool.backend.needs import missing
from motorpool.backend.protocol import CPU, GPU
from motorpool.config.load import parse_config
from motorpool.config.run import Config
from motorpool.errors import EnvironmentMissingError, MotorpoolError
from motorpool.pipeline.accelerator import ask_executors, choose_backend
from strict_arrays import StrictDevice

# -- what a machine lacks ------------------------------------------------------------------------------


class CudaError(RuntimeError):
    pass


def fake_cupy(count: int = 1, error: str | None = None) -> Any:
    def get() -> int:
        if error:
            raise CudaError(error)
        return count

    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=get)))


@pytest.mark.parametrize(
    ("installed", "cupy", "expected"),
    [
        ({"cupy", "cuml"}, fake_cupy(), []),
        ({"cupy"}, fake_cupy(), ["cuml is not installed"]),
        ({"cuml"}, None, ["cupy is not installed"]),
        (set(), None, ["cupy is not installed", "cuml is not installed"]),
        (
            {"cupy", "cuml"},
            ImportError("libcuda.so.1: cannot open\nmore"),
            ["cupy cannot be loaded (libcuda.so.1: cannot open)"],
        ),
        ({"cupy"}, fake_cupy(0), ["cuml is not installed", "no GPU"]),
        (
            {"cupy", "cuml"},
            fake_cupy(error="cudaErrorInsufficientDriver: driver too old"),
            ["no usable GPU, driver or CUDA library (cudaErrorInsufficientDriver: driver too old)"],
        ),
        ({"cupy", "cuml"}, fake_cupy(count=2), []),
    ],
)
def test_what_a_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], cupy: Any, expected: list[str]
) -> None:
    monkeypatch.setitem(devices.DEVICES, "cupy", StrictDevice)

    def load(name: str) -> Any:
        assert name == "cupy", "nothing else is loaded before it is used"
        if isinstance(cupy, Exception):
            raise cupy
        return cupy

    assert missing(["cupy", "cuml"], lambda name: name in installed or None, load) == expected


def test_a_library_that_is_missing_behind_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("libcublas.so.12: cannot open shared object file")

    monkeypatch.setitem(devices.DEVICES, "cupy", broken)
    found = missing(["cupy"], lambda name: True, lambda name: fake_cupy())
    assert found == ["no usable GPU, driver or CUDA library (libcublas.so.12: cannot open shared object file)"]


def test_a_gpu_that_rounds_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded() -> Any:
        raise EnvironmentMissingError("accelerator: rounded to TF32")

    monkeypatch.setitem(devices.DEVICES, "cupy", rounded)
    found = missing(["cupy"], lambda name: True, lambda name: fake_cupy())
    assert found == ["accelerator: rounded to TF32"]


# -- the choice ----------------------------------------------------------------------------------------


def config(accelerator: str, **more: Any) -> Config:
    return parse_config({"lake": {"path": "lake"}, "accelerator": accelerator, **more})


def never(_: SparkSession, modules: Sequence[str]) -> Any:
    pytest.fail("nobody is to be asked")


def answers(lacks: dict[str, list[str]]) -> Callable[[SparkSession, Sequence[str]], dict[str, list[str]]]:
    return lambda spark, modules: lacks


class Session:
    """As much of a session as the choice looks at."""

    def __init__(self, master: str) -> None:
        self.conf = SimpleNamespace(get=lambda key, default=None: master)


CLUSTER: Any = Session("spark://host:7077")
ALONE: Any = Session("local[2]")


def test_cpu_is_taken_without_a_question(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "motorpool"):
        assert choose_backend(CLUSTER, config("cpu"), never) is CPU
    assert "accelerator: cpu, as the config says" in caplog.text


def test_gpu_where_all_hosts_have_one(caplog: pytest.LogCaptureFixture) -> None:
    for accelerator in ("gpu", "auto"):
        with caplog.at_level(logging.INFO):
            assert choose_backend(CLUSTER, config(accelerator), answers({"a": [], "b": []})) is GPU
        assert "accelerator: gpu, which 2 host(s) have: a, b" in caplog.text


LACKS = {"a": [], "b": ["cuml is not installed"], "c": ["no GPU", "cuml is not installed"]}


def test_gpu_where_some_hosts_have_none() -> None:
    with pytest.raises(EnvironmentMissingError) as refused:
        choose_backend(CLUSTER, config("gpu"), answers(LACKS))
    said = str(refused.value)
    assert said.startswith("accelerator: gpu: cuml is not installed on b, c; no GPU on c. ")
    assert "pip install 'motorpool[gpu]'" in said
    assert "accelerator: cpu" in said
    with pytest.raises(EnvironmentMissingError, match="no executor answered"):
        choose_backend(CLUSTER, config("gpu"), answers({}))


def test_auto_says_why_it_takes_the_cpu(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_backend(CLUSTER, config("auto"), answers(LACKS)) is CPU
    assert "accelerator: auto takes cpu: cuml is not installed on b, c; no GPU on c" in caplog.text
    monkeypatch.setattr("motorpool.pipeline.accelerator.find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert choose_backend(ALONE, config("auto"), never) is CPU
    assert "auto takes cpu: cupy is not installed on this machine" in caplog.text
    # Tasks of another Python may have it.
    monkeypatch.setenv("PYSPARK_PYTHON", "/another/python")
    assert choose_backend(ALONE, config("auto"), answers({"a": []})) is GPU


def test_cuml_is_asked_for_where_maps_are() -> None:
    asked: list[Sequence[str]] = []

    def ask(_: SparkSession, modules: Sequence[str]) -> dict[str, list[str]]:
        asked.append(modules)
        return {"a": []}

    for more in ({}, {"projections": {"methods": ["pca"]}}, {"projections": {"methods": ["pca", "tsne"]}}):
        choose_backend(CLUSTER, config("gpu", **more), ask)
    assert asked == [["cupy"], ["cupy"], ["cupy", "cuml"]]


def test_an_unknown_accelerator_is_refused() -> None:
    with pytest.raises(MotorpoolError, match="accelerator: 'tpu'"):
        config("tpu")


# -- through Spark -----------------------------------------------------------------------------------


def test_executors_are_asked(spark: SparkSession) -> None:
    lacks = ask_executors(spark, ["cupy", "no_such_module"])
    assert len(lacks) == 1
    assert any("no_such_module is not installed" in problem for problems in lacks.values() for problem in problems)


def test_a_gpu_that_is_not_there_stops_a_run(spark: SparkSession) -> None:
    if not any(ask_executors(spark, ["cupy"]).values()):
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentMissingError, match=r"accelerator: gpu: .* on .*pip install"):
        choose_backend(spark, config("gpu"))

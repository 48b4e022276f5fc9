"""What the code asks of cupy and cuML is what their recorded signatures take, and stand-ins refuse the rest.

Runs without the packages: `test_real_packages` compares the recording with them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cuml_stand_in import Manifold
from rapids_signatures import check, known, recorded
from rapids_uses import Use, names, uses, uses_in
from strict_arrays import StrictDevice

ROOT = Path(__file__).resolve().parents[2]


def problems(found: list[Use]) -> list[str]:
    """The uses that the real packages would refuse."""
    wrong = []
    for use in found:
        try:
            known(use.name)
            if use.call is not None:
                check(use.name, [None] * use.call[0], use.call[1])
        except (AttributeError, TypeError) as exc:
            wrong.append(f"{use.place}: {exc}")
    return wrong


def test_the_code_uses_names_and_arguments_that_the_packages_have() -> None:
    assert problems(uses()) == []


def test_every_name_that_is_used_is_recorded_and_no_other() -> None:
    assert sorted(recorded()["names"]) == sorted(names())


SOURCE = """
import cuml as library
from importlib import import_module
CUPY = "cupy"

def kernel(device, rows, n):
    xp, mean = device.xp, device.put(rows).mean(axis=0)
    total = xp.square(mean - rows).sum(axis=1, dtype=xp.float64)
    at = xp.wear(total > 0, total, 0)
    at.sum(axis=1, wear=True)
    rows.wear()
    if n:
        model = import_module("cuml.manifold").UMAP(neighbours=3)
    else:
        model = library.PCA(n_components=n)
    model.fit_transform(rows)
    return library.PCA().fit(rows).mean_

def memory(load):
    cupy = load(CUPY)
    return cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes(1)
"""


def test_uses_are_found() -> None:
    found = {(use.name, use.call) for use in uses_in(SOURCE, "kernel.py")}
    assert found == {
        ("cupy.ndarray().mean", (0, ("axis",))),
        ("cupy.square", (1, ())),
        ("cupy.ndarray().sum", (0, ("axis", "dtype"))),
        ("cupy.float64", None),
        ("cupy.wear", (3, ())),
        ("cupy.ndarray().sum", (0, ("axis", "wear"))),
        ("cuml.manifold.UMAP", (0, ("neighbours",))),
        ("cuml.PCA", (0, ("n_components",))),
        ("cuml.manifold.UMAP().fit_transform", (1, ())),
        ("cuml.PCA().fit_transform", (1, ())),
        ("cuml.PCA", (0, ())),
        ("cuml.PCA().fit", (1, ())),
        ("cuml.PCA().mean_", None),
        ("cupy.cuda.runtime.memGetInfo", (0, ())),
        ("cupy.get_default_memory_pool", (0, ())),
        ("cupy.cuda.MemoryPool().free_bytes", (1, ())),
    }


def test_uses_that_the_packages_refuse_are_problems() -> None:
    wrong = "\n".join(problems(uses_in(SOURCE, "kernel.py")))
    for part in ("cupy.wear: not among", "unexpected keyword argument 'wear'", "'neighbours'", "free_bytes: too many"):
        assert part in wrong
    with pytest.raises(ValueError, match=r"kernel\.py:1: cupy\.where takes arguments that cannot be read here"):
        uses_in("xp.where(*given)", "kernel.py")


@pytest.mark.parametrize(
    ("name", "args", "keywords"),
    [
        # NumPy takes all of these.
        ("partition", (1,), {"kind": "introselect"}),
        ("concatenate", (), {"casting": "no", "unheard": 1}),
        ("maximum", (1.0,), {"where": True}),
        ("sqrt", (), {"order": "C"}),
    ],
)
def test_strict_arrays_refuse_arguments_of_numpys_alone(name: str, args: tuple, keywords: dict) -> None:
    device = StrictDevice()
    x = device.put(np.arange(6.0).reshape(2, 3))
    with pytest.raises(TypeError, match=f"^cupy.{name}: "):
        getattr(device.xp, name)(x, *args, **keywords)


def test_methods_of_strict_arrays_refuse_arguments_of_numpys_alone() -> None:
    x = StrictDevice().put(np.arange(6.0))
    with pytest.raises(TypeError, match=r"sum: .*'where'"):
        x.sum(where=True)
    with pytest.raises(TypeError, match=r"max: .*'initial'"):
        x.max(initial=0.0)


def test_the_stand_in_for_cuml_refuses_what_cuml_refuses() -> None:
    manifold = Manifold()
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_neighbours'"):
        manifold.UMAP(n_neighbours=15)
    with pytest.raises(TypeError, match="too many positional arguments"):
        manifold.TSNE(2, 30.0)


def test_recorded_versions_are_those_that_the_project_is_written_for() -> None:
    pinned = dict(re.findall(r"^(\S+?)==(\S+)$", (ROOT / "constraints-rapids.txt").read_text(), re.MULTILINE))
    assert {name: pinned[name] for name in recorded()["versions"]} == recorded()["versions"]
    year, month, *_ = pinned["cuml-cu12"].split(".")
    assert f'"cuml-cu12=={year}.{month}.*"' in (ROOT / "setup.py").read_text()
    page = (ROOT / "docs" / "gpu.md").read_text()
    for package in ("cupy", "cuML", "spark-rapids-ml"):
        assert re.search(rf"{package} {re.escape(recorded_version(package))}\b", page), package


def recorded_version(package: str) -> str:
    distribution = {"cupy": "cupy-cuda12x", "cuML": "cuml-cu12"}.get(package, package)
    return str(recorded()["versions"][distribution])

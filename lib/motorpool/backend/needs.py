"""What a machine lacks to work on a GPU, asked where the work will be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from motorpool.backend.device import open_device
from motorpool.errors import EnvironmentMissingError

#: How to install what a GPU needs: for drivers of CUDA 12, and of CUDA 13.
INSTALL = "pip install 'motorpool[gpu]' for CUDA 12, or 'motorpool[gpu-cu13]' for CUDA 13"
#: What kernels need, what layouts do, and what the engine of that name does.
CUPY, CUML, SPARK_RAPIDS_ML = "cupy", "cuml", "spark_rapids_ml"


def missing(
    modules: Sequence[str],
    find: Callable[[str], object] = find_spec,
    load: Callable[[str], ModuleType] = import_module,
) -> list[str]:
    """What this machine lacks for these modules, ``cupy`` first: a word each, nothing where it has all of it.

    Packages that are not installed, a cupy that cannot be loaded, a driver or GPU that is not there, and a GPU whose
    float32 products are not what the kernels rely on. Takes the GPU of this task.
    """
    absent = [f"{name} is not installed" for name in modules if find(name) is None]
    if CUPY not in modules or find(CUPY) is None:
        return absent
    return absent + _gpu_problem(load)


def _gpu_problem(load: Callable[[str], ModuleType]) -> list[str]:
    try:
        cupy = load(CUPY)
    except ImportError as exc:
        return [f"cupy cannot be loaded ({_first_line(exc)})"]
    try:
        if not int(cupy.cuda.runtime.getDeviceCount()):
            return ["no GPU"]
        open_device(CUPY)
    except EnvironmentMissingError as exc:
        return [_first_line(exc)]
    except (ImportError, OSError, RuntimeError) as exc:
        # CUDA's own errors are RuntimeErrors; libraries are loaded by the first product.
        return [f"no usable GPU, driver or CUDA library ({_first_line(exc)})"]
    return []


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]

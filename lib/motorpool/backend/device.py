"""An array module in a task: copies to and from it, and how many rows of a block its memory takes at a time.

`CudaDevice` is the whole binding to cupy. Everything else of `backend` works with any module of NumPy's interface.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from motorpool.errors import EnvironmentMissingError, MotorpoolError

#: Bytes of a piece beyond which a larger one is no faster.
_MOST = 2**30
_UNIT = 2.0**-24


class Device(Protocol):
    """Where arrays of the module ``xp`` live."""

    @property
    def xp(self) -> Any: ...

    def put(self, x: np.ndarray) -> Any:
        """A host array there; without a copy where they share memory."""

    def take(self, x: Any) -> np.ndarray:
        """An array from there on the host."""

    def free(self) -> int:
        """Bytes that can still be taken."""


class HostDevice:
    """NumPy itself: what the tests run the kernels with."""

    xp: Any = np

    def put(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x)

    def take(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x)

    def free(self) -> int:
        return 4 * _MOST


class CudaDevice:
    """One GPU through cupy. Raises EnvironmentMissingError where its float32 products are not what they should be."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.xp: Any = import_module("cupy")
        self.use()
        check_products(self)

    def use(self) -> CudaDevice:
        self.xp.cuda.Device(self.number).use()
        return self

    def put(self, x: np.ndarray) -> Any:
        return self.xp.asarray(x)

    def take(self, x: Any) -> np.ndarray:
        return np.asarray(self.xp.asnumpy(x))

    def free(self) -> int:
        # What cupy's pool holds and nothing uses is free for this process too.
        return int(self.xp.cuda.runtime.memGetInfo()[0]) + int(self.xp.get_default_memory_pool().free_bytes())


def open_device(module: str) -> Device:
    """The device of an array module in this process; for ``cupy`` the GPU of this task."""
    return DEVICES[module]()


@functools.cache
def _cuda(number: int) -> CudaDevice:
    # A worker serves many tasks, each of which may be given another GPU.
    return CudaDevice(number)


def _open_gpu() -> Device:
    return _cuda(_task_gpu()).use()


#: Array modules by name, and what opens their device.
DEVICES: dict[str, Callable[[], Device]] = {"numpy": HostDevice, "cupy": _open_gpu}


def _task_gpu() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    count = int(import_module("cupy").cuda.runtime.getDeviceCount())
    turn = context.partitionId() if context else 0
    return gpu_number(given.addresses if given else (), os.environ.get("CUDA_VISIBLE_DEVICES"), turn, count)


def gpu_number(addresses: Sequence[str], visible: str | None, turn: int, count: int) -> int:
    """Which of the ``count`` GPUs that CUDA shows a task takes.

    ``addresses`` are those that Spark gave it; a task without any (no ``spark.task.resource.gpu.amount``, local mode)
    takes one by ``turn``. Where CUDA_VISIBLE_DEVICES hides others, CUDA counts what is left from 0.
    """
    if not addresses:
        return turn % count
    address = addresses[0].strip()
    shown = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if address in shown:
        return shown.index(address)
    # Isolation has left this executor its own GPUs, under other names.
    return int(address) if not shown and address.isdecimal() and int(address) < count else turn % count


def check_products(device: Device) -> None:
    """EnvironmentMissingError where float32 products round their factors, as TF32 does: bounds would not hold then."""
    rng = np.random.default_rng(0)
    # As large as a tile, since libraries choose by the size; a few rows tell.
    a, b = (rng.uniform(0.5, 1.0, (2048, 64)).astype(np.float32) for _ in range(2))
    exact = a[:64].astype(np.float64) @ b.T.astype(np.float64)
    off = np.abs(device.take((device.put(a) @ device.put(b).T)[:64]) - exact).max()
    # Higham 2002, eq. 3.5; TF32, of 11 bits, is off by some thirty times as much.
    if not off <= (a.shape[1] + 2) * _UNIT * exact.max():
        raise EnvironmentMissingError(
            f"accelerator: float32 products on this GPU are off by {off:.1e} where {exact.max():.0f} stands, as TF32's "
            "are, and distances would be wrong: unset CUPY_TF32 and NVIDIA_TF32_OVERRIDE on the executors "
            "(spark.executorEnv.CUPY_TF32=0), or set accelerator: cpu"
        )


def rows_within(free: int, per_row: int, fixed: int = 0) -> int:
    """How many rows of ``per_row`` bytes to work on at a time beside ``fixed`` bytes.

    They take half of the ``free`` bytes, and no more than 1 GiB. MotorpoolError where a single row does not fit.
    """
    if fixed + per_row > free:
        raise MotorpoolError(
            f"accelerator: the GPU has {free / 2**20:,.0f} MiB free, and this step needs "
            f"{(fixed + per_row) / 2**20:,.0f} MiB: let fewer tasks share it (raise spark.task.resource.gpu.amount), "
            "or set accelerator: cpu"
        )
    return max(1, (min(free // 2, _MOST + fixed) - fixed) // max(1, per_row))


def in_pieces(device: Device, n: int, per_row: int, work: Callable[[slice], None], fixed: int = 0) -> None:
    """Do ``work`` for rows 0 to n in slices that fit (`rows_within`), one after the other.

    What was free may be another task's a moment later. Where the device runs out of memory all the same, the slice is
    halved and done anew, so ``work`` changes nothing before the device has given all that it asks of it. MotorpoolError
    where there is no memory for a single row.
    """
    step, start = rows_within(device.free(), per_row, fixed), 0
    while start < n:
        part = slice(start, min(start + step, n))
        try:
            work(part)
        except MemoryError as exc:
            if part.stop - start == 1:
                raise MotorpoolError(
                    f"accelerator: the GPU has no memory for a single row of a step that needs some "
                    f"{(fixed + per_row) / 2**20:,.1f} MiB: let fewer tasks share it (raise "
                    "spark.task.resource.gpu.amount), or set accelerator: cpu"
                ) from exc
            step = (part.stop - start) // 2
        else:
            start = part.stop


class OnDevice:
    """What keeps arrays on a device for as long as a task lives: they are made there at first use and do not travel."""

    module: str
    _there: dict[str, Any]

    def device(self) -> Device:
        return open_device(self.module)

    def there(self, name: str, make: Callable[[], np.ndarray]) -> Any:
        """The host array that ``make`` gives, on the device; asked for once."""
        held: dict[str, Any] = self.__dict__.setdefault("_there", {})
        if name not in held:
            held[name] = self.device().put(make())
        return held[name]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_there"}

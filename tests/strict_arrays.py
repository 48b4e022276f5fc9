"""An array module that stands for a GPU's: NumPy's arithmetic behind arrays that do not mix with NumPy's.

As with cupy, a host array among its arguments is a TypeError, and so is an array of its own where NumPy expects one;
only ``put`` and ``take`` cross over. It knows no function but those that kernels are meant to use, and takes no
argument that cupy does not take, by the signatures recorded from cupy (`rapids_signatures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rapids_signatures import check

FUNCTIONS = {
    "arange", "argpartition", "concatenate", "full", "isfinite", "isnan", "maximum", "minimum", "nonzero", "ones",
    "outer", "partition", "sqrt", "square", "stack", "take_along_axis", "where", "zeros",
}  # fmt: skip
CONSTANTS = {"float32", "float64", "inf"}


def _inside(value: Any) -> Any:
    """The NumPy array inside, of each member of lists; TypeError for arrays of the host."""
    if isinstance(value, Away):
        return value.held
    if isinstance(value, (list, tuple)):
        return type(value)(_inside(v) for v in value)
    if isinstance(value, np.ndarray):
        raise TypeError("an array of the host among those of the device")
    return value


def _outside(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_outside(v) for v in value)
    # Results of one number stay on a device too.
    return Away(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


class Away:
    """An array on the device."""

    __array_ufunc__ = None

    def __init__(self, held: np.ndarray) -> None:
        self.held = held

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("an array of the device among those of the host")

    def __reduce__(self) -> Any:
        raise TypeError("an array of the device does not travel")

    def __len__(self) -> int:
        return len(self.held)

    def __bool__(self) -> bool:
        return bool(self.held)

    def __getitem__(self, key: Any) -> Any:
        return _outside(self.held[_inside(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.held[_inside(key)] = _inside(value)

    @property
    def T(self) -> Away:  # noqa: N802
        return Away(self.held.T)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape


def _method(name: str) -> Callable[..., Any]:
    def call(self: Away, *args: Any, **kwargs: Any) -> Any:
        if name in METHODS:
            check(f"cupy.ndarray().{name}", args, kwargs)
        return _outside(getattr(self.held, name)(*(_inside(a) for a in args), **kwargs))

    return call


METHODS = ["any", "all", "argmax", "argmin", "astype", "max", "mean", "min", "sum"]
OPERATORS = [
    "__add__", "__sub__", "__mul__", "__truediv__", "__matmul__", "__and__", "__or__", "__invert__", "__neg__",
    "__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rmatmul__",
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__",
]  # fmt: skip
IN_PLACE = ["__iadd__", "__isub__"]
for _name in (*METHODS, *OPERATORS):
    setattr(Away, _name, _method(_name))
for _name in IN_PLACE:

    def _in_place(self: Away, other: Any, name: str = _name) -> Away:
        getattr(self.held, name)(_inside(other))
        return self

    setattr(Away, _name, _in_place)


class StrictModule:
    def __getattr__(self, name: str) -> Any:
        if name in CONSTANTS:
            return getattr(np, name)
        if name not in FUNCTIONS:
            raise AttributeError(f"{name}: not among the functions that kernels are meant to use")

        def call(*args: Any, **kwargs: Any) -> Any:
            check(f"cupy.{name}", args, kwargs)
            return _outside(getattr(np, name)(*(_inside(a) for a in args), **kwargs))

        return call


class StrictDevice:
    """A device whose ``put`` and ``take`` copy; ``bytes_free`` is what it says it has."""

    xp = StrictModule()

    def __init__(self, bytes_free: int = 2**30) -> None:
        self.bytes_free = bytes_free

    def put(self, x: np.ndarray) -> Away:
        assert not isinstance(x, Away)
        return Away(np.array(x))

    def take(self, x: Any) -> np.ndarray:
        assert isinstance(x, Away), "is on the host already"
        return x.held.copy()

    def free(self) -> int:
        return self.bytes_free


class FailingDevice(StrictDevice):
    """Counts what is asked of the device, copies and functions alike, and fails as a GPU does.

    ``errors`` has what is raised, by the number of the question, the first being 0. Where another task shares the
    device, copies to it of more than ``room`` bytes find no memory, whatever was free.
    """

    def __init__(self, errors: Mapping[int, Exception] | None = None, room: int | None = None) -> None:
        super().__init__()
        self.errors, self.room = errors or {}, room
        self.asked = 0
        self.xp: Any = _Counted(self)

    def ask(self) -> None:
        number, self.asked = self.asked, self.asked + 1
        error = self.errors.get(number)
        if error is not None:
            raise error

    def put(self, x: np.ndarray) -> Away:
        self.ask()
        if self.room is not None and x.nbytes > self.room:
            raise MemoryError(f"Out of memory allocating {x.nbytes:,} bytes")
        return super().put(x)

    def take(self, x: Any) -> np.ndarray:
        self.ask()
        return super().take(x)


class _Counted(StrictModule):
    def __init__(self, device: FailingDevice) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name in CONSTANTS:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.device.ask()
            return found(*args, **kwargs)

        return call

"""What the real packages say of the names that the project uses. Only for a Python that has them (see `Makefile`)."""

from __future__ import annotations

import contextlib
import inspect
import re
import zlib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

#: Whose versions are recorded, by the names of their distributions.
DISTRIBUTIONS = ("cupy-cuda12x", "cuml-cu12", "spark-rapids-ml", "pyspark", "numpy")


def versions() -> dict[str, str]:
    return {name: version(name) for name in DISTRIBUTIONS}


def describe(name: str) -> dict[str, Any]:
    """The kind of a name, and for functions, classes and methods its parameters with their defaults' texts.

    AttributeError where the packages do not have it.
    """
    owner, _, attribute = name.rpartition("().")
    if not owner:
        return _described(_find(name), bound=True)
    cls = _find(owner)
    if attribute.endswith("_") and not attribute.startswith("_"):
        return _fitted(cls, attribute)
    found = inspect.getattr_static(cls, attribute)
    if isinstance(found, property) or inspect.isgetsetdescriptor(found):
        return {"kind": "attribute"}
    return _described(getattr(cls, attribute), bound=False)


def _find(name: str) -> Any:
    parts = name.split(".")
    found: Any = import_module(parts[0])
    for end in range(2, len(parts) + 1):
        try:
            found = getattr(found, parts[end - 1])
        except AttributeError:
            try:
                found = import_module(".".join(parts[:end]))
            except ImportError:
                raise AttributeError(f"the real packages have no {name}") from None
    return found


def _described(found: Any, bound: bool) -> dict[str, Any]:
    import cupy

    if isinstance(found, ModuleType):
        return {"kind": "module"}
    if isinstance(found, type) and issubclass(found, np.generic):
        return {"kind": "NumPy's own", "is": f"numpy.{found.__name__}"}
    if not callable(found):
        return {"kind": type(found).__name__}
    parameters = shown_parameters(found)
    if not bound:
        parameters = parameters[1:]
    kind = "ufunc" if isinstance(found, cupy.ufunc) else "class" if isinstance(found, type) else "function"
    return {"kind": kind, "parameters": parameters}


def shown_parameters(found: Any) -> list[dict[str, Any]]:
    """Name, kind and, where there is one, the default's text of each parameter."""
    return [_shown(p) for p in _signature(found).parameters.values()]


def _signature(found: Any) -> inspect.Signature:
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        return _from_docstring(found)


def _from_docstring(found: Any) -> inspect.Signature:
    """Compiled functions keep their signature as the first line of their docstring."""
    first = (found.__doc__ or "").strip().splitlines()
    match = re.match(r"[\w.]+(\(.*\))", first[0]) if first else None
    if match is None:
        raise TypeError(f"{found!r} says nothing of its signature")
    scope: dict[str, Any] = {}
    # "int device" is "device", and in a page of documentation a star is "\\*".
    text = re.sub(r"(?<=[(,])\s*[\w.]+\s+(?=\w+\s*[,=)])", " ", match[1]).replace("\\*", "*")
    exec(f"def made{text}: ...", scope)
    return inspect.signature(scope["made"])


def _shown(parameter: inspect.Parameter) -> dict[str, Any]:
    shown = {"name": parameter.name, "kind": parameter.kind.name}
    if parameter.default is not inspect.Parameter.empty:
        shown["default"] = _text(parameter.default)
    return shown


def _text(default: Any) -> str:
    return default.__name__ if isinstance(default, type) else repr(default)


def _fitted(cls: type, attribute: str) -> dict[str, Any]:
    """An attribute that an estimator gets by fitting, and where that is to be seen without fitting it."""
    if hasattr(cls, attribute):
        return {"kind": "fitted", "seen in": "class"}
    if any(attribute.encode() in text for text in _texts(Path(inspect.getfile(cls)).read_bytes())):
        return {"kind": "fitted", "seen in": "texts of the module"}
    raise AttributeError(f"{cls.__module__}.{cls.__qualname__} has no {attribute} after fitting")


def _texts(module: bytes) -> Iterator[bytes]:
    """A module as it is, and what is compressed in it: Cython keeps the names of attributes so."""
    yield module
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", module):
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(module[start.start() :])

"""A config from a YAML file, with overrides: every problem is told at once, by its key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from motorpool.config.run import FORMS, CaseConfig, Config, _short, _yaml
from motorpool.errors import ConfigError
from motorpool.texts import decode, expand_home

M = TypeVar("M", bound=BaseModel)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override (``key.sub=value``, value in YAML) and validate; ConfigError lists every problem."""
    data = _read(path)
    for override in overrides:
        _apply_override(data, override)
    return parse_config(data, str(path))


def load_case(path: str | Path) -> CaseConfig:
    """The section `case` of a YAML file, whose other sections may be anything; ConfigError lists every problem."""
    return _parsed(_CaseFile, _read(path), str(path)).case


class _CaseFile(BaseModel):
    """A file of which the section `case` alone is wanted, with a config's other sections or without."""

    model_config = ConfigDict(extra="ignore")

    case: CaseConfig


def _read(path: str | Path) -> dict[str, Any]:
    try:
        text = decode(Path(expand_home(str(path))).read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the config: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: cannot read the config: {exc}") from exc
    data = _yaml(text, f"{path}: is")
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as `case:` and `lake:`, found {type(data).__name__}")
    return data


def parse_config(data: dict[str, Any], source: str = "config") -> Config:
    """Validate a config given as nested dicts; ConfigError lists every problem at once."""
    return _parsed(Config, data, source)


def _parsed(model: type[M], data: dict[str, Any], source: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        lines = [f"{source}: {_word(error)}" for error in exc.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from exc


def _word(error: Any) -> str:
    """One finding of pydantic as ``key.sub[0]: what is wrong``."""
    key = ""
    for item in (item for item in error["loc"] if item not in FORMS):
        key += f"[{item}]" if isinstance(item, int) else f".{item}" if key else str(item)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing"):
        return f"{key}: {message}" if key else message
    return f"{key}: {_short(error['input'])}: {message}" if key else message


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, sep, raw = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set {override}: expected key.sub=value")
    value = _yaml(raw, f"--set {override}: the value is")
    # Spark's own keys hold dots: everything behind `spark.` is one key.
    path = ["spark", key.removeprefix("spark.")] if key.startswith("spark.") else key.split(".")
    node: Any = data
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                where = ".".join(path[:depth])
                raise ConfigError(
                    f"--set {key}: {where} is a list of {len(node)}; expected a position below that, found {name!r}"
                )
            if last:
                node[int(name)] = value
            else:
                node = node[int(name)]
        elif isinstance(node, dict):
            if last:
                node[name] = value
            else:
                if node.get(name) is None:
                    node[name] = {}
                node = node[name]
        else:
            raise ConfigError(f"--set {key}: {'.'.join(path[:depth])} is {node!r} and has no keys")

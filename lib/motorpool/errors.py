"""The errors a person can act on; everything else is a bug and keeps its traceback."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable


class MotorpoolError(Exception):
    """Something went wrong that the message explains: what, where, the value found, and what to do."""

    exit_status = 1


class ConfigError(MotorpoolError):
    """A mistake in the config or on the command line."""

    exit_status = 2


class CaseError(MotorpoolError):
    """The case on disk cannot be used as it is."""

    exit_status = 2


class AnnotationError(MotorpoolError):
    """A file of annotations cannot be read, or says what cannot be: with the line, as for a mistake in a config."""

    exit_status = 2


class LakeError(MotorpoolError):
    """A table is missing, or does not hold what a stage needs."""


class EnvironmentMissingError(MotorpoolError):
    """Java, a jar or a library is missing or does not fit."""


class TaskMemoryError(MotorpoolError):
    """A task was ended, on every executor that tried it, because memory ran out."""


def not_installed(packages: Iterable[str]) -> list[str]:
    """Those of the packages, by the names of their modules, that cannot be imported here; nothing is imported."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def require_packages(user: str, packages: Iterable[str]) -> None:
    """EnvironmentMissingError, which says what to install, where one of the packages that ``user`` needs is missing."""
    missing = not_installed(packages)
    if missing:
        raise EnvironmentMissingError(
            f"{user} needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )

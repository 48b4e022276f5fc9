"""Checks of an attribute that the command line names."""

from __future__ import annotations

from collections.abc import Collection

from motorpool.errors import ConfigError
from motorpool.texts import NAME_PATTERN


def check_name(attribute: str) -> None:
    """ConfigError for a name that no attribute can have."""
    if not NAME_PATTERN.fullmatch(attribute):
        raise ConfigError(f"--attribute {attribute!r}: expected a name of letters, digits and . _ + -")


def check_known(attribute: str, configured: Collection[str] | None) -> None:
    """ConfigError unless the attribute is one of those of the config; None where no config names any."""
    if configured is not None and attribute not in configured:
        raise ConfigError(
            f"--attribute {attribute}: the config has no such attribute; `labels.attributes` names "
            f"{', '.join(configured) or 'none'}"
        )

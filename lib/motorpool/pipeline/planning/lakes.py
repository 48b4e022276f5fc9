"""Which lake lies in a folder or a store: the format that its tables have."""

from __future__ import annotations

from motorpool.case import files
from motorpool.config.run import LakeConfig
from motorpool.errors import LakeError


def lake_at(path: str, named: str = "") -> LakeConfig:
    """The lake at a path, Delta unless it plainly holds Parquet tables; remote lakes are Delta.

    LakeError where nothing is there, or no tables; ``named`` stands before the path in it.
    """
    if not files.exists(path):
        raise LakeError(f"{named}{files.redact(path)}: there is no such folder")
    tables = files.list_dir(path)
    if any(files.exists(files.join(path, t, "_delta_log")) for t in tables):
        return LakeConfig(path=path, format="delta")
    if "images" in tables or "models" in tables:
        return LakeConfig(path=path, format="parquet")
    raise LakeError(f"{named}{files.redact(path)}: holds no tables of motorpool; run `motorpool run` first")

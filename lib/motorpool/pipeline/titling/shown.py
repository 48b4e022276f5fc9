"""New titles on the page of a report, without the rest of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from motorpool import __version__
from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.pipeline.output.folder import whole_folder
from motorpool.report import check_packages, page, queries


def check_page(lake: LakeConfig, folder: Path) -> None:
    """ConfigError unless a folder holds a report of the lake that this version wrote."""
    again = "write it again by `motorpool report`"
    try:
        version = page.read(folder)[0]["version"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"--report {folder}: holds no report whose titles can be changed: {again}") from exc
    if version != __version__:
        raise ConfigError(f"--report {folder}: was written by motorpool {version}, this is {__version__}: {again}")
    own, other = page.lake_name(lake), page.lake_of(folder)
    if own != other:
        whose = f"the lake {other}" if other else "a lake that is gone"
        raise ConfigError(f"--report {folder}: is of {whose}, not of {own}: {again}")


def retitle_page(lake: Lake, folder: Path) -> None:
    """Write the page of a report again with the titles that the lake has now; whole, or not at all.

    ConfigError as `check_page`; EnvironmentMissingError where a package is missing that pictures are drawn with.
    """
    check_packages()
    check_page(lake.config, folder)
    from motorpool.report.titles import models_of, write_retitled

    clusters = queries.clusters(lake, models_of(folder))
    with whole_folder(folder) as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        write_retitled(draft, clusters)

"""The report: what the lake holds as a folder of pages, pictures and figures that opens without a network."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from motorpool import __version__, report
from motorpool.config.run import Config, LakeConfig, ReportConfig, local_folder
from motorpool.errors import ConfigError
from motorpool.lake import Lake
from motorpool.lake.local_tables import tables_in_folder
from motorpool.photos.source import find_images
from motorpool.pipeline.context import Context, explained
from motorpool.pipeline.output.folder import check_folder, whole_folder
from motorpool.pipeline.pace import timed
from motorpool.report import check_packages, page

log = logging.getLogger(__name__)

#: The file that shows that a folder is a report, and may be replaced by the next one.
_MARK = "data/charts.js"
#: The file that tells what a report was made from, where all of it could be read.
_MADE_FROM = "data/made_from.txt"


@dataclass(frozen=True)
class Summary:
    """What was written: where, its bytes, the images on the maps, the photos asked for, and those not readable."""

    out: Path
    n_bytes: int
    n_points: int
    n_photos: int
    n_unreadable: int
    seconds: float


def check_report(lake: LakeConfig, out: str | None) -> Path:
    """The report's folder, after whatever would stop a report has been looked at, before any work.

    ``out`` is by default the folder ``report`` beside the lake's. EnvironmentMissingError for packages that are not
    installed, ConfigError for a folder that cannot be written to or holds something else.
    """
    check_packages()
    return report_folder(lake, out)


def report_folder(lake: LakeConfig, out: str | None) -> Path:
    """The folder of `check_report`, whether the packages are there or not; ConfigError as there.

    A folder with the report of another lake, which is still there, is refused too.
    """
    folder = _folder_of(lake, out)
    own, other = page.lake_name(lake), page.lake_of(folder)
    if other not in ("", own):
        raise ConfigError(
            f"report.out: {folder}: holds the report of the lake {other}; name another folder for that of {own} "
            "(--out DIR, or report.out in the config), or remove the old report"
        )
    return folder


def _folder_of(lake: LakeConfig, out: str | None) -> Path:
    if out is not None:
        return check_folder(out, "report.out", _MARK, lake.path)
    folder = local_folder(lake.path) if lake.path is not None else None
    if folder is None:
        where = lake.path or "in a catalog"
        raise ConfigError(f"report.out: is missing: the lake ({where}) lies in no local folder, so name one")
    return check_folder(str(folder.absolute().parent / "report"), "report.out", _MARK, lake.path)


def is_report(folder: Path) -> bool:
    """Whether a report lies in a folder."""
    return (folder / _MARK).is_file()


def run_report(ctx: Context) -> None:
    """Write the report: which model to trust and why, maps, clusters and outliers, in a folder for any browser.

    Written aside, and renamed into place. What the lake lacks is said in its section. Does nothing where the folder has
    the report of the same tables, settings and place of photos, all of which could be read.
    """
    if ctx.config.report is None:
        log.info("report: the config has no section `report`, nothing to do")
        return
    out = check_report(ctx.config.lake, ctx.config.report.out)
    root = images_root_of(ctx.config)
    made_from = _made_from(ctx.config, root)
    if made_from is not None and is_report(out) and _text(out / _MADE_FROM) == made_from:
        log.info("report: %s shows what the lake holds, nothing to do (`motorpool report` writes it anew)", out)
        return
    write_report(ctx.lake, ctx.config.report, out, root, ctx.config.seed, made_from)


def _made_from(config: Config, images_root: str | None) -> str | None:
    """A fingerprint of what a report is made from; None for a lake whose files this process does not see."""
    tables = tables_in_folder(config.lake)
    if tables is None or config.report is None:
        return None
    # Between two versions, too, a changed page is to be seen.
    program = hashlib.sha256()
    for file in sorted(Path(report.__file__).parent.rglob("*")):
        if file.is_file() and file.suffix != ".pyc":
            program.update(file.read_bytes())
    told = [tables.state(), str(config.lake), config.report.model_dump_json(), str(images_root), str(config.seed)]
    return hashlib.sha256("\n".join([__version__, program.hexdigest(), *told]).encode()).hexdigest()


def _text(file: Path) -> str:
    """What a file holds; nothing where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""


def images_root_of(config: Config) -> str | None:
    """Where the case's photos lie; None without a case in the config, and where it names none."""
    return find_images(config.case) if config.case else None


def write_report(
    lake: Lake, settings: ReportConfig, out: Path, images_root: str | None, seed: int, made_from: str | None = None
) -> Summary:
    """Read the tables, draw, and write the folder ``out``; photos come from ``images_root``, where there is one.

    ``made_from`` is put into it for the next run, unless some photos could not be read.

    Reads: models, images, feature_sets, clusters, and what there is of k_distances, agreement, parameters, labels,
    projections, projection_methods, cluster_members, outliers, outlier_methods, outlier_reasons, vehicles, nuisance,
    appends, drift. Writes no table. Driver memory: some 100 MB, whatever the number of images. LakeError where no model
    has been fitted.
    """
    # Here, since the packages that draw are an extra.
    check_packages()
    from motorpool.report.build import build

    if images_root is None:
        log.warning("report: has no photos: %s", _where_photos_may_lie(lake))
    began = time.monotonic()
    with timed(f"report: {out}"), explained(), whole_folder(out) as folder:
        built = build(lake, settings, folder, out, images_root, seed, timed)
        if made_from is not None and not built.n_unreadable:
            (folder / _MADE_FROM).write_text(made_from)
        n_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    log.info("report: open %s (%.1f MB in all)", out / "index.html", n_bytes / 1e6)
    if built.n_unreadable:
        log.warning("report: %s of %s photos could not be read", f"{built.n_unreadable:,}", f"{built.n_asked:,}")
    return Summary(out, n_bytes, built.n_points, built.n_asked, built.n_unreadable, time.monotonic() - began)


def _where_photos_may_lie(lake: Lake) -> str:
    """What to give for a report with photos."""
    given = "give --images DIR (a folder or a zip), or name it in the config as case.images_root"
    seen = sorted({row["params"].get("photos", "") for row in lake.rows("interpretations", ["params"])} - {""})
    return f"{given}; titles were made from those in {seen[0]}" if seen else given

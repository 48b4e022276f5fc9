"""Everything about config and case that can be known before Spark starts, all of it at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from motorpool.config.run import Config
from motorpool.interpret.overrides import load_overrides
from motorpool.photos.source import find_images
from motorpool.pipeline.lookalikes.duplicates import asked_searches
from motorpool.pipeline.planning.held import Held, held_in
from motorpool.pipeline.planning.opening import Opened, known_columns, open_case
from motorpool.pipeline.planning.packages import check_accelerator, check_packages
from motorpool.pipeline.planning.problems import Problems
from motorpool.pipeline.planning.widths import Shape, Width, width_of
from motorpool.pipeline.stages.features import check_definitions, check_descriptors, check_group_columns
from motorpool.pipeline.stages.ingest import check_sources, dropped_before, other_case
from motorpool.pipeline.stages.nuisance import check_nuisance_columns
from motorpool.pipeline.stages.quality import photos_of
from motorpool.pipeline.stages.report import report_folder


@dataclass
class Findings:
    """What a look at config, case and lake has found: ``problems`` stop a run, ``notes`` do not.

    ``opened`` is the case, where a stage reads it; ``held`` what the lake holds, None where only Spark can tell.
    ``widths`` are those of the feature sets, as far as they can be told, and ``photos`` where these lie.
    """

    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    opened: Opened | None = None
    held: Held | None = None
    widths: dict[str, Width] = field(default_factory=dict)
    photos: str | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Rows and columns of every descriptor that is known, of the case or of the lake."""
        of_case = {name: found.shape for name, found in self.opened.descriptors.items()} if self.opened else {}
        return of_case | (self.held.descriptors if self.held else {})


def look(config: Config, stages: Collection[str]) -> Findings:
    """Check what the stages named need. Only ``ingest`` reads the case: the others go on where it is gone."""
    found = Findings()
    problems = found.problems
    if "ingest" in stages:
        with problems.noted():
            found.opened = open_case(config.require_case(), problems)
    if not {"ingest", "features"}.isdisjoint(stages):
        found.held = held_in(config.lake)
    if "ingest" in stages and found.held and found.opened:
        _look_at_conflicts(config, found.held, found.opened, problems)
    if "features" in stages:
        if not config.features:
            problems.append("features: names no feature set: list at least one descriptor with its steps")
        _look_at_features(config, "ingest" in stages, found)
    if "cluster" in stages and not config.cluster.models:
        problems.append("cluster.models: is empty: list at least one grid, e.g. {algorithm: kmeans, k: 2..15}")
    _look_at_nuisance(config, stages, found)
    _look_at_photos(config, stages, found)
    if config.report is not None:
        if "interpret" in stages and config.report.titles is not None:
            with problems.noted():
                load_overrides(config.report.titles)
        if config.case is not None and not {"interpret", "report"}.isdisjoint(stages):
            with problems.noted():
                found.photos = find_images(config.case)
        if "report" in stages:
            with problems.noted():
                report_folder(config.lake, config.report.out)
    with problems.noted():
        check_packages(config, stages)
    with problems.noted():
        check_accelerator(config)
    return found


def _look_at_conflicts(config: Config, held: Held, opened: Opened, problems: Problems) -> None:
    """Whether the lake was made from this case; vehicles and attributes are for the ingest to compare."""
    lake = str(config.lake.path)
    with problems.noted():
        if opened.paths is not None and not held.is_of(opened.paths):
            raise other_case(lake)
        # A table of vectors may have rows of other images, which only the ingest can count.
        check_sources(held.sources, opened.arrays, lake, {})
        # Where vectors are computed, images without a photo are left out in any case.
        computed = any(r["computed_by"] is not None for r in held.sources.values())
        refused = config.require_case().on_bad_rows == "refuse" and not computed
        if refused and any(r["n_dropped"] for r in held.sources.values()):
            raise dropped_before(lake)


def _look_at_nuisance(config: Config, stages: Collection[str], found: Findings) -> None:
    """Whether the case has the columns that clusters are compared with."""
    columns = known_columns(found.opened.case) if found.opened else None
    if "nuisance" in stages and config.nuisance is not None and columns is not None:
        with found.problems.noted():
            check_nuisance_columns(config.nuisance, columns, "the case")


def _look_at_photos(config: Config, stages: Collection[str], found: Findings) -> None:
    """Whether there are the photos and the column of the splits that stages ask for."""
    if "quality" in stages and config.photo_quality is not None:
        with found.problems.noted():
            found.photos = photos_of(config)
    if "duplicates" in stages and config.duplicates is not None:
        with found.problems.noted():
            asked_searches(config)
        split = config.duplicates.split
        if split is not None and found.opened is not None:
            columns = known_columns(found.opened.case)
            if columns is not None and split not in columns:
                found.problems.append(
                    f"duplicates.split: {split!r}: the case has no such attribute; it has "
                    f"{', '.join(sorted(columns)) or 'none'}"
                )


def _look_at_features(config: Config, reads_case: bool, found: Findings) -> None:
    """Whether the feature sets fit the descriptors that there are, or will be."""
    sets, held = config.feature_sets, found.held
    if reads_case and found.opened is None:
        # Without its descriptors nothing can be said.
        return
    of_case = set(found.opened.names) if reads_case and found.opened else set()
    of_lake = set(held.descriptors) if held else set()
    there = of_case | of_lake
    if there:
        where = "the case or the lake" if of_case and of_lake else "the case" if of_case else "the lake"
        unsure = Problems()
        # A lake that only Spark can read may hold descriptors that the case does not name any more.
        with (found.problems if held else unsure).noted():
            check_descriptors(sets, there, where)
        lines = [line for text in unsure for line in text.splitlines()]
        found.notes += [f"{line}; whether the lake has it shows when Spark has started" for line in lines]
    columns = known_columns(found.opened.case) if reads_case and found.opened else None
    if columns is not None:
        with found.problems.noted():
            check_group_columns(sets, columns, "the case")
    if held:
        with found.problems.noted():
            check_definitions(sets, held.definitions)
    for spec in sets:
        if held and spec.name in held.widths:
            found.widths[spec.name] = Width(held.widths[spec.name])
            continue
        with found.problems.noted():
            width = width_of(spec, found.shapes)
            if width is not None:
                found.widths[spec.name] = width

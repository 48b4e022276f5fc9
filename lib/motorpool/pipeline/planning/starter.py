"""A config to start with, written from what lies in a case folder, or from photos alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from motorpool.case import files
from motorpool.case.arrays import ArrayFile
from motorpool.case.folder import BUILT_IN, PATHS_FILE
from motorpool.case.sources import DescriptorSource
from motorpool.case.vector_columns import ColumnHeader
from motorpool.config.load import load_config, parse_config
from motorpool.config.run import DEFAULT_VEHICLE_PATTERN, CaseConfig
from motorpool.describe.built_in import METHODS
from motorpool.errors import ConfigError, not_installed
from motorpool.maps.registry import missing_packages
from motorpool.photos.source import find_images
from motorpool.pipeline.planning.opening import (
    Opened,
    columns_of_attributes,
    first_paths,
    known_to_attributes,
    open_case,
    photos_found,
)
from motorpool.pipeline.planning.problems import Problems
from motorpool.report import PACKAGES as REPORT_PACKAGES
from motorpool.texts import counted

#: Paths that are looked at.
_LOOKED_AT = 1000
#: Columns that are kept of a descriptor, and the largest number of clusters.
_COLUMNS, _CLUSTERS = 100, 15
#: What the column of the attributes file is called that names the vehicles without being asked.
_VEHICLES = "vehicle_id"
#: Letters of a list in a comment.
_LINE = 100
#: Wide enough that no value is broken into lines.
_WIDE = 10_000


@dataclass(frozen=True)
class Starter:
    """A config's text, and what was seen in the case, a line each."""

    text: str
    seen: list[str]


def starter(case_path: str, out: Path) -> Starter:
    """The config of a first study, to be written to ``out``; its tables go into a folder beside.

    ``case_path`` is a case folder, or a place of photos, for which descriptors are computed that need no network.

    ConfigError, with every problem, for a case that could not be ingested. Reads what `open_case` reads, and looks for
    the photos of the first thousand paths where they lie on this machine.
    """
    problems = Problems()
    computed = _computed(case_path)
    config = CaseConfig(images_root=case_path, descriptors=computed) if computed else CaseConfig(path=case_path)
    opened = open_case(config, problems)
    if problems or opened is None:
        raise ConfigError("\n".join(problems))
    seen = _Seen.of(config, opened)
    lines = [
        f"# A first study of {counted(opened.n_rows, 'image')}. Every key is explained in docs/config.md.",
        f"#   motorpool check --conf {shlex.quote(str(out))}     looks for mistakes, and says what would run",
        f"#   motorpool run --conf {shlex.quote(str(out))}       runs it; after a stop it goes on where it was",
        *(_photo_lines(case_path, computed) if computed else ["case:", f"  path: {_scalar(case_path)}"]),
        *_vehicle_lines(opened, seen),
        *([] if computed else _photos_seen(seen)),
        "lake:",
        "  # The folder of the tables; the report comes beside it.",
        f"  path: {_scalar(str(_folder_of(out) / 'lake'))}",
        *_feature_lines(opened),
        *_study_lines(opened),
    ]
    text = "\n".join(lines) + "\n"
    # A file that cannot be loaded is not written.
    parse_config(yaml.safe_load(text), str(out))
    return Starter(
        text, [f"{counted(opened.n_rows, 'image')}, {counted(len(opened.descriptors), 'descriptor')}", *seen.told]
    )


def write_starter(case_path: str, out: Path) -> Starter:
    """Write `starter` to a new file; ConfigError where it exists already, or cannot be written."""
    if out.exists():
        raise ConfigError(f"--out {out}: exists already: name another file, or remove it first")
    made = starter(case_path, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as f:
            f.write(made.text)
    except OSError as exc:
        raise ConfigError(f"--out {out}: cannot be written: {exc.strerror or exc}") from exc
    return made


def study_of_photos(root: str) -> Path:
    """The config of a first study of the photos in a place, in this folder and named after it: written if need be.

    ConfigError where a file of this name is there, but is no study of these photos.
    """
    out = Path(Path(root.rstrip("/") or "/").absolute().stem + ".yaml")
    if not out.exists():
        write_starter(root, out)
        return out
    case = load_config(out).case
    if case is None or case.images_root != root:
        raise ConfigError(
            f"{out}: is there already, and is no study of the photos in {files.redact(root)}: run it by --conf, or "
            "write another by `motorpool init`"
        )
    return out


def _computed(path: str) -> dict[str, DescriptorSource]:
    """What is computed from photos, where ``path`` is a place of photos; nothing for a case folder."""
    if not files.exists(path):
        return {}
    parts = (PATHS_FILE, "descriptors")
    if files.is_folder(path) and any(files.exists(files.join(path, part)) for part in parts):
        return {}
    return {name: source for name, source in BUILT_IN.items() if name not in _lacking()}


def _lacking() -> dict[str, str]:
    """The built-in methods whose package is not installed here, with what to install."""
    packages = {name: m.package for name, m in METHODS.items() if m.package is not None}
    return {name: package for name, (module, package) in packages.items() if not_installed([module])}


def _folder_of(out: Path) -> Path:
    """A folder for what the study writes, named after its config."""
    return out.with_suffix("") if out.suffix else out.with_name(f"{out.name}-study")


@dataclass(frozen=True)
class _Seen:
    """How many of the first paths have a vehicle by the usual pattern, a line of attributes, and a photo.

    None where there are no attributes, or no photos that could be looked for.
    """

    n: int
    vehicles: int
    columns: list[str]
    described: int | None
    photos: str | None
    pictured: int | None

    @classmethod
    def of(cls, config: CaseConfig, opened: Opened) -> _Seen:
        paths = first_paths(opened.case, _LOOKED_AT)
        photos = find_images(config)
        return cls(
            len(paths),
            sum(re.search(DEFAULT_VEHICLE_PATTERN, path) is not None for path in paths),
            columns_of_attributes(opened.case),
            known_to_attributes(opened.case, paths),
            photos,
            photos_found(photos, paths) if photos is not None else None,
        )

    def counted(self, n: int | None) -> str:
        """``987 of the first 1,000 paths``; of fewer all are looked at."""
        first = "first " if self.n == _LOOKED_AT else ""
        return "not counted" if n is None else f"{n:,} of the {first}{self.n:,} paths"

    @property
    def told(self) -> list[str]:
        attributes = f"{self.counted(self.described)}; columns: {', '.join(self.columns)}" if self.columns else "none"
        return [
            f"vehicles by the usual pattern: {self.counted(self.vehicles)}",
            f"attributes.csv: {attributes}",
            f"photos: {self.counted(self.pictured)}, in {self.photos}" if self.photos else "photos: none",
        ]


def _photo_lines(root: str, computed: Mapping[str, DescriptorSource]) -> list[str]:
    lines = ["case:", f"  images_root: {_scalar(root)}", "  # Descriptors are computed from the photos."]
    lines += ["  descriptors:", *(f"    {name}: {{builtin: {name}}}" for name in computed)]
    lines += [f"    # {name} too: pip install {package}" for name, package in _lacking().items()]
    return [
        *lines,
        "    # A network knows more: any ONNX file that gives a vector for each photo (docs/describe.md).",
        "    # clip: {model: clip.onnx, size: 224, mean: [0.48, 0.46, 0.41], std: [0.27, 0.26, 0.28]}",
    ]


def _vehicle_lines(opened: Opened, seen: _Seen) -> list[str]:
    lines = []
    if seen.vehicles:
        lines.append(f"  # Vehicles are named in the paths: in {seen.counted(seen.vehicles)}, by the default pattern.")
    elif _VEHICLES in seen.columns:
        lines += [
            f"  # The column of {_last(str(opened.case.attributes))} that says which images show the same thing.",
            f"  vehicle_column: {_VEHICLES}",
        ]
    else:
        lines += [
            f"  # The paths name no vehicles ({seen.counted(0)}). Where several photos show the same thing, say so: by",
            "  # vehicle_column, a column of attributes.csv, or by vehicle_pattern, whose first group is its name.",
            "  vehicle_pattern: null",
        ]
    if seen.columns:
        described = "some of the paths" if seen.described is None else seen.counted(seen.described)
        lines += [
            f"  # {_last(str(opened.case.attributes))} describes {described}. Its columns go into the",
            f"  # table images: {', '.join(seen.columns)[:_LINE]}",
        ]
    return lines


def _photos_seen(seen: _Seen) -> list[str]:
    lines = []
    if seen.photos:
        pictured = f"{seen.counted(seen.pictured)} have one in " if seen.pictured is not None else ""
        lines.append(f"  # Photos: {pictured}{_last(seen.photos)}.")
    else:
        lines.append("  # No photos found. Where they lie elsewhere:")
        lines.append("  # images_root: FOLDER_OR_ZIP")
    return lines


def _feature_lines(opened: Opened) -> list[str]:
    lines = ["features:", f"  # One vector per image and feature set: the {_COLUMNS} directions that differ most."]
    for name, array in opened.descriptors.items():
        kept = _kept(array, opened)
        steps = f", steps: [{{pca: {kept}}}]" if kept > 1 else ""
        lines.append(f"  - {{descriptor: {_scalar(name)}{steps}}}    # of {array.shape[1]:,} columns")
    return lines


def _kept(array: ArrayFile | ColumnHeader, opened: Opened) -> int:
    return min(_COLUMNS, array.shape[1], opened.n_rows)


def _study_lines(opened: Opened) -> list[str]:
    most = max(2, min(_CLUSTERS, opened.n_rows))
    lines = [
        "cluster:",
        "  models:",
        f"    - {{algorithm: kmeans, k: 2..{most}}}",
        "    # Clusters of any shape, and images that belong to none. It looks at all pairs of images.",
        "    # - {algorithm: hdbscan, min_cluster_size: [10, 30]}",
        "# Images that fit in nowhere. The local outlier factor (lof) looks at all pairs of images, too.",
        "outliers: {methods: [isolation_forest, lof]}",
    ]
    # A map has two dimensions.
    if all(_kept(array, opened) > 1 for array in opened.descriptors.values()):
        lacking = missing_packages(["umap"])
        note = f"    # umap too: pip install {' '.join(lacking.values())}" if lacking else ""
        lines += ["# Maps of the images.", f"projections: {{methods: [pca{'' if lacking else ', umap'}]}}{note}"]
    lacking_here = not_installed(REPORT_PACKAGES)
    if lacking_here:
        lines.append(f"# A report for the browser: pip install {' '.join(lacking_here)}")
        lines.append("# report: {}")
    else:
        lines += ["# A report for the browser; {} takes all defaults.", "report: {}"]
    lines += [
        "# Labels for all photos, from looks at some hundred (docs/labels.md):",
        "# labels: {attributes: {view: {per: image, values: [front, rear]}}}",
    ]
    return lines


def _scalar(text: str) -> str:
    """A text as YAML writes it, in quotes where it needs them."""
    # In a list, for the quotes that commas and brackets take there.
    return str(yaml.safe_dump([text], default_flow_style=True, width=_WIDE, allow_unicode=True)).strip()[1:-1]


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]

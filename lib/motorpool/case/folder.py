"""Finding the files of a case: a folder in the published layout, its parts named one by one, or photos alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from motorpool.case import files
from motorpool.case.sources import DescriptorSource, PhotoList, Source, shown
from motorpool.config.describing import BuiltInConfig
from motorpool.config.run import CaseConfig, ColumnConfig
from motorpool.errors import CaseError
from motorpool.texts import NAME_PATTERN

ARRAY_SUFFIXES = (
    *(".pickle", ".pkl", ".p", ".joblib", ".npy", ".npz", ".parquet"),
    *(".safetensors", ".pt", ".pth", ".h5", ".hdf5"),
)
PATHS_FILE = "images_paths.csv"
ATTRIBUTES_FILE = "attributes.csv"
#: Copies of the published case spell the images' folder in two ways.
IMAGE_FOLDERS = ("raw_data", "row_data")
#: What is computed from photos where a case has nothing else.
BUILT_IN: Mapping[str, DescriptorSource] = {
    "color_histogram": BuiltInConfig(builtin="color_histogram"),
    "hog": BuiltInConfig(builtin="hog"),
}


@dataclass(frozen=True)
class Case:
    """Where everything lies. ``descriptors`` maps names to what they come from; ``attributes`` may be missing."""

    descriptors: Mapping[str, DescriptorSource]
    images_paths: Source
    attributes: Source | None


def find_case(config: CaseConfig) -> Case:
    """The case's files, named in the config or found under ``case.path``; CaseError when one is missing."""
    root = config.path
    if root is not None and not files.exists(root):
        raise CaseError(f"case.path {files.redact(root)}: there is no such folder")

    def found(explicit: Source | None, *names: str) -> Source | None:
        if explicit is not None or root is None:
            return explicit
        return next((p for p in (files.join(root, n) for n in names) if files.exists(p)), None)

    images_paths = found(config.images_paths, PATHS_FILE)
    if images_paths is None and root is None and config.images_root is not None:
        images_paths = PhotoList(config.images_root)
    if images_paths is None:
        raise CaseError(
            f"case.path {files.redact(str(root))}: holds no {PATHS_FILE}; name the file as case.images_paths"
        )
    descriptors: dict[str, DescriptorSource] = dict(config.descriptors or {})
    if not descriptors:
        descriptors = dict(BUILT_IN) if root is None else dict(_list_descriptors(root))
    _check_names(descriptors)
    _check_order(descriptors, images_paths)
    attributes = found(config.attributes, ATTRIBUTES_FILE)
    if attributes is None and isinstance(images_paths, ColumnConfig):
        # What stands beside the paths is known of the images.
        attributes = images_paths
    return Case(descriptors, images_paths, attributes)


def _check_order(descriptors: Mapping[str, DescriptorSource], images_paths: Source) -> None:
    """The order in which photos lie is nothing that the rows of an array could have been in."""
    arrays = [name for name, source in descriptors.items() if isinstance(source, str)]
    if arrays and isinstance(images_paths, PhotoList):
        raise CaseError(
            f"case.descriptors.{arrays[0]}: is an array, whose row i is that of image i, but the case names no list of "
            "its images: give it as case.images_paths"
        )


def _check_names(descriptors: Mapping[str, DescriptorSource]) -> None:
    """Descriptors become columns beside ``image_id``, and names of columns that differ by case alone are one."""
    seen = {"image_id": "the images' own number"}
    for name, source in descriptors.items():
        other = seen.setdefault(name.lower(), shown(source))
        if other != shown(source):
            raise CaseError(
                f"{shown(source)}: a descriptor cannot be named {name!r} beside {other}, whose name is the same "
                "to Spark: choose another name in case.descriptors"
            )


def _list_descriptors(root: str) -> dict[str, str]:
    folder = files.join(root, "descriptors")
    shown = files.redact(folder)
    if not files.exists(folder):
        raise CaseError(f"{shown}: there is no such folder; name the files as case.descriptors: {{name: file}}")
    result: dict[str, str] = {}
    for entry in files.list_dir(folder):
        name = PurePosixPath(entry)
        if name.suffix.lower() not in ARRAY_SUFFIXES:
            continue
        if not NAME_PATTERN.fullmatch(name.stem):
            raise CaseError(
                f"{shown}/{entry}: {name.stem!r} cannot be a descriptor's name; give it one in case.descriptors"
            )
        if name.stem in result:
            raise CaseError(f"{shown}: two files are named {name.stem}; choose one in case.descriptors")
        result[name.stem] = files.join(folder, entry)
    if not result:
        raise CaseError(f"{shown}: holds no descriptors ({', '.join(ARRAY_SUFFIXES)})")
    return result

"""Where the photos of a case lie: a folder, a zip, tars, or a table; their names and bytes, never from outside of it.

`open_photo_files` tells by the name what a place is. What it gives reads one photo at a time, and is cheap to open
again: tasks call it themselves.
"""

from __future__ import annotations

import os

from motorpool.case import files
from motorpool.case.photo_files.folders import FolderPhotos, StorePhotos
from motorpool.case.photo_files.reader import NoPhotoError, PhotoFiles, Problem
from motorpool.case.photo_files.tables import holds_photos, open_table
from motorpool.case.photo_files.tars import COMPRESSED, open_tar, open_tars
from motorpool.case.photo_files.zips import open_zip
from motorpool.errors import CaseError

__all__ = ["NoPhotoError", "PhotoFiles", "Problem", "open_photo_files"]

_ZIP, _TAR, _PARQUET = ".zip", ".tar", ".parquet"


def open_photo_files(root: str) -> PhotoFiles:
    """The photos below ``root``: a folder or URI as `case.files` takes it, a .zip, a .tar, a folder of .tar files, a
    .parquet file, or a folder of them or of a Delta table.

    In stores a folder of tars is not told from one of photos, nor is a folder of Parquet files whose name does not end
    in .parquet. CaseError where the place is not there, or not what its name says.
    """
    lower, name = root.lower().rstrip("/"), files.redact(root)
    if lower.endswith(COMPRESSED):
        raise CaseError(f"{name}: a compressed tar has to be read from its beginning for each photo: unpack it to .tar")
    if not files.exists(root):
        raise CaseError(f"{name}: there is no such folder or file of photos")
    if lower.endswith(_ZIP):
        return open_zip(root)
    if lower.endswith(_PARQUET) or files.exists(files.join(root, "_delta_log")):
        return open_table(root)
    if not files.is_folder(root):
        if lower.endswith(_TAR):
            return open_tar(root)
        raise CaseError(f"{name}: is no folder of photos, and its name ends in none of .zip, .tar and .parquet")
    local = files.local_path(root)
    if local is None:
        return StorePhotos(root)
    tars, table = _packed(local)
    if tars:
        return open_tars(local, tuple(tars))
    return open_table(root) if table else FolderPhotos(local)


def _packed(folder: str) -> tuple[list[str], bool]:
    """The tars that lie directly in a folder, and whether it holds a table of photos.

    Beside photos in folders there may be tables of what is known of them.
    """
    tars, tables = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            if entry.name.lower().endswith(_TAR):
                tars.append(entry.name)
            elif entry.name.lower().endswith(_PARQUET):
                tables.append(entry.name)
    if tars or not tables:
        return tars, False
    return [], holds_photos(os.path.join(folder, min(tables)))

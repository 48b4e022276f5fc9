"""Opening files by path or URI: local disks, Databricks mounts and object stores, one spelling for all.

Accepted: plain paths (``/Volumes/...`` included), ``file:/x`` and ``file:///x``, ``dbfs:/x``, and what
`pyarrow.fs.FileSystem.from_uri` opens (``s3://``, ``gs://``, ``abfss://``, ``hdfs://``). Every failure is a
`CaseError` that names the path without the credentials a URI may carry.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from motorpool.errors import CaseError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What may carry a query: the names of local files may hold a question mark.
_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://", re.IGNORECASE)
# Hadoop's spellings of schemes that pyarrow knows by another name.
_HADOOP_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# user:secret@, where the secret may hold a raw slash (AWS keys do) but a bare port is no secret; or user@.
_USERINFO = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^\s'\"/@:]*):(?!\d+(?:/|$))[^\s'\"]*@|(?P<alone>[^\s'\"/@:]+)@)"
)
_QUERY = re.compile(rf"(?P<uri>\b{_REMOTE.pattern}[^\s'\"?]*)\?[^\s'\"]*", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with the secrets taken out of every URI in it: userinfo and the query string.

    In ``abfss://container@account...`` the container's name stays, because it is no secret and is needed to
    find the file.
    """

    def without_userinfo(match: re.Match[str]) -> str:
        scheme = match["scheme"]
        container = match["user"] or match["alone"]
        kept = f"{container}@" if scheme.lower() in ("abfs", "abfss") and container else ""
        return f"{scheme}://{kept}"

    return _QUERY.sub(lambda match: match["uri"], _USERINFO.sub(without_userinfo, text))


def safe_cause(error: Exception) -> Exception | None:
    """The error to chain, or none where its text would put a URI's credentials in the traceback."""
    return error if redact(str(error)) == str(error) else None


def open_file(path: str) -> pa.NativeFile:
    """Open `path` for random access: `read`, `readinto`, `seek`, `size` all work, nothing is read yet.

    Raises `CaseError` where the file is missing, a folder, unreadable, or its scheme unknown.
    """
    system, inner = _resolve(path)
    _require(path, fs.FileType.File)
    try:
        return system.open_input_file(inner)
    except (OSError, pa.ArrowException) as error:
        raise _failure(path, "could not be opened", error) from safe_cause(error)


def exists(path: str) -> bool:
    """Whether `path` is a file or a folder. Raises `CaseError` where the store cannot be asked."""
    return bool(_info(path).type != fs.FileType.NotFound)


def is_folder(path: str) -> bool:
    """Whether `path` is a folder. Raises `CaseError` where the store cannot be asked."""
    return bool(_info(path).type == fs.FileType.Directory)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it; nothing where there is none. `CaseError` where that cannot be."""
    system, inner = _resolve(path)
    try:
        if is_folder(path):
            system.delete_dir(inner)
    except (OSError, pa.ArrowException) as error:
        raise _failure(path, "could not be removed", error) from safe_cause(error)


def file_size(path: str) -> int:
    """Size of the file in bytes. Raises `CaseError` where it is missing or a folder."""
    return int(_require(path, fs.FileType.File).size)


def list_dir(path: str) -> list[str]:
    """Sorted names (not paths) of the files and folders directly in `path`.

    Raises `CaseError` where it is missing or not a folder.
    """
    system, inner = _resolve(path)
    _require(path, fs.FileType.Directory)
    try:
        entries = system.get_file_info(fs.FileSelector(inner))
    except (OSError, pa.ArrowException) as error:
        raise _failure(path, "could not be listed", error) from safe_cause(error)
    return sorted(entry.base_name for entry in entries)


def list_files(path: str) -> list[str]:
    """Paths below the folder `path`, with slashes, of all files in it and its folders; unordered, all in memory.

    Raises `CaseError` where it is missing or not a folder.
    """
    system, inner = _resolve(path)
    _require(path, fs.FileType.Directory)
    try:
        entries = system.get_file_info(fs.FileSelector(inner, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise _failure(path, "could not be listed", error) from safe_cause(error)
    head = inner.rstrip("/") + "/"
    return [entry.path.removeprefix(head) for entry in entries if entry.type == fs.FileType.File]


def join(root: str, *parts: str) -> str:
    """`root` with `parts` below it, for local paths and URIs alike; a URI's query stays at its end.

    Parts are always below `root`: a leading slash is dropped rather than starting over.
    """
    base, query = _split_query(root)
    below = [part.strip("/") for part in parts if part.strip("/")]
    if not below:
        return root
    head = base if base.endswith("/") or not base else base + "/"
    return head + "/".join(below) + query


def _split_query(path: str) -> tuple[str, str]:
    """A URI's part before ``?`` and the query with its ``?``; a local path may hold a ``?`` and is whole."""
    if not _REMOTE.match(path):
        return path, ""
    base, mark, query = path.partition("?")
    return base, mark + query


def local_path(path: str) -> str | None:
    """Where `path` lies on this machine's disks and mounts; None for what lies in a store."""
    system, inner = _resolve(path)
    return inner if isinstance(system, fs.LocalFileSystem) else None


@lru_cache(maxsize=256)  # finding a bucket's region costs a network round trip
def _resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The file system `path` lies on, and its path there."""
    if not path:
        raise CaseError("an empty path was given: expected a file, a folder or a URI")
    if "\0" in path:
        raise CaseError(f"{redact(path)!r}: a path cannot hold a zero byte")
    if path.startswith("dbfs:"):
        inner = "/" + path.removeprefix("dbfs:").lstrip("/")
        # Databricks mounts Unity volumes at the root and everything else under /dbfs.
        return fs.LocalFileSystem(), inner if inner.startswith("/Volumes/") else "/dbfs" + inner
    if path.startswith("file:"):
        rest = path.removeprefix("file:")
        if rest.startswith("//"):
            host, _, tail = rest[2:].partition("/")
            if host not in ("", "localhost"):
                raise CaseError(f"{redact(path)}: names the host {host!r}; write file:///folder/file")
            rest = "/" + tail
        return fs.LocalFileSystem(), unquote(rest)
    if not _SCHEME.match(path):
        return fs.LocalFileSystem(), path

    base, query = _split_query(path)
    scheme, _, rest = base.partition("://")
    # Spark paths hold raw spaces and letters, which a strict URI may not; % stays as it is.
    rest = quote(rest, safe="/%:@+,=&;$!*'()~[]")
    uri = f"{_HADOOP_SCHEMES.get(scheme.lower(), scheme.lower())}://{rest}{query}"
    try:
        system, inner = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        advice = "use a local path, file://, dbfs:/, /Volumes/, s3://, gs://, abfss:// or hdfs://"
        raise _failure(path, f"cannot be reached; {advice}", error) from safe_cause(error)
    return system, inner


def _info(path: str) -> fs.FileInfo:
    system, inner = _resolve(path)
    try:
        return system.get_file_info(inner)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _failure(path, "could not be looked up", error) from safe_cause(error)


def _require(path: str, wanted: fs.FileType) -> fs.FileInfo:
    """What the store knows about `path`, which must be of the `wanted` type (a file or a folder)."""
    info = _info(path)
    noun = {fs.FileType.File: "file", fs.FileType.Directory: "folder"}[wanted]
    if info.type == fs.FileType.NotFound:
        raise CaseError(f"{redact(path)}: no such {noun}. Check the path and that this machine can see it")
    # Pipes and devices are "unknown"; they cannot be read twice, so they are refused too.
    if info.type != wanted:
        found = "a folder" if info.type == fs.FileType.Directory else "not a folder"
        if info.type == fs.FileType.Unknown:
            found = "neither a file nor a folder"
        raise CaseError(f"{redact(path)}: is {found}, expected a {noun}. Name the {noun} itself")
    return info


def _failure(path: str, what: str, error: Exception) -> CaseError:
    # pyarrow adds pages of detail (every place it looked for libjvm) after the first line.
    lines = redact(str(error)).splitlines() or [type(error).__name__]
    return CaseError(f"{redact(path)}: {what}: {lines[0]}")

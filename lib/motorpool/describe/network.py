"""Networks in ONNX files, run by ONNX Runtime: on a GPU where its CUDA provider is there, else on one core a task.

The file is data: nothing outside its own folder is read for it, and no library of further operations is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from motorpool.case import files
from motorpool.config.describing import NetworkConfig
from motorpool.errors import CaseError, EnvironmentMissingError, not_installed

#: The modules that networks need, each with the package that brings it.
PACKAGES = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
#: Pictures that go through a network at once, unless it says otherwise.
_BATCH = 16
_SIZE = 224
#: Bytes of a Protobuf message, at most.
_MOST_BYTES = 2**31
_HASHED = 2**22
_TYPES: dict[str, np.dtype] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
#: How photos are prepared; a change of the code that changes numbers changes it.
_PREPARED = 1


@dataclass(frozen=True)
class _Input:
    """What a network takes: a name, float32 or float16, channels before or behind the pixels, and how many at once.

    ``many`` is None where a network takes any number of pictures.
    """

    name: str
    dtype: np.dtype
    size: int
    channels_first: bool
    many: int | None


@dataclass(frozen=True)
class Network:
    """A network and how photos are prepared for it; ``files`` are the model's own and those that hold its numbers."""

    config: NetworkConfig
    path: str
    files: tuple[str, ...]
    digest: str
    taken: _Input
    output: str
    width: int

    @property
    def name(self) -> str:
        return files.redact(self.config.model)

    @property
    def fingerprint(self) -> str:
        settings = {
            **self.config.model_dump(exclude={"model"}),
            "size": self.taken.size,
            "output": self.output,
            "model": self.digest,
            "prepared": _PREPARED,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def ready(self) -> _Running:
        return _running(self)

    def __hash__(self) -> int:
        return hash((self.path, self.fingerprint))


def open_network(config: NetworkConfig) -> Network:
    """The network of a config, checked: one vector for each photo is what it gives.

    CaseError for a file that is no ONNX network, that asks for files outside its folder, or that takes or gives
    something else; EnvironmentMissingError without its packages. It runs once, on a black picture. Memory: the network,
    twice.
    """
    name = files.redact(config.model)
    check_packages(name)
    path = files.local_path(config.model)
    if path is None:
        raise CaseError(f"{name}: lies in a store: copy it to a disk or mount that all workers see")
    if files.file_size(config.model) >= _MOST_BYTES:
        raise CaseError(f"{name}: is larger than 2 GiB: export it with its numbers in a file beside it")
    parts = (path, *_external_files(path, name))
    digest = _digest(parts)
    session = _session(path, name)
    taken = _taken(session, config, name)
    output = _output(session, config, name)
    black = np.zeros((taken.many or 1, *_shape(taken)), taken.dtype)
    vectors = _vectors(_run(session, output, {taken.name: black}, name), name)
    return Network(config, path, parts, digest, taken, output, vectors.shape[1])


def check_packages(user: str) -> None:
    """EnvironmentMissingError where the packages are not installed here that networks are read and run with."""
    missing = [PACKAGES[module] for module in not_installed(PACKAGES)]
    if missing:
        raise EnvironmentMissingError(
            f"{user}: a network needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}, on "
            "the workers too (onnxruntime-gpu in the place of onnxruntime runs it on a GPU)"
        )


def _external_files(path: str, name: str) -> list[str]:
    """The files that hold a network's numbers beside it; CaseError for any outside its folder."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as exc:
        raise CaseError(f"{name}: is no ONNX network, or is damaged: {exc}. Export it again") from exc
    if not model.graph.node:
        raise CaseError(f"{name}: is no ONNX network, or is damaged: it has no operations. Export it again")
    folder = os.path.realpath(os.path.dirname(path))
    found = set()
    for location in _locations(model):
        file = os.path.realpath(os.path.join(folder, location))
        if os.path.isabs(location) or os.path.commonpath([folder, file]) != folder:
            raise CaseError(
                f"{name}: says that numbers of it lie in {location[:200]!r}, outside of its own folder, where "
                "nothing is read: export it again"
            )
        if not os.path.isfile(file):
            raise CaseError(f"{name}: says that numbers of it lie in {location[:200]!r}, which is not there")
        found.add(file)
    return sorted(found)


def _locations(message: Any) -> Iterator[str]:
    """Where the tensors in a message of Protobuf, at any depth, say that their numbers lie."""
    waiting = [message]
    while waiting:
        for field, value in waiting.pop().ListFields():
            if field.message_type is None:
                continue
            repeated = hasattr(value, "__len__") and not hasattr(value, "ListFields")
            if field.message_type.name == "StringStringEntryProto":
                if field.name == "external_data":
                    yield from (entry.value for entry in value if entry.key == "location")
            else:
                waiting += value if repeated else [value]


def _digest(parts: Sequence[str]) -> str:
    """SHA-256 of all bytes of some files, one after the other."""
    whole = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as f:
            while data := f.read(_HASHED):
                whole.update(data)
    return whole.hexdigest()


def _session(path: str, name: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    # A Spark task has one core, and threads that wait for work would burn those of others.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    there = ort.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in there]
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as exc:  # ONNX Runtime's errors share no class.
        raise CaseError(f"{name}: ONNX Runtime cannot load it: {str(exc).splitlines()[0][:300]}") from exc


def _taken(session: Any, config: NetworkConfig, name: str) -> _Input:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        listed = ", ".join(i.name for i in inputs)
        raise CaseError(f"{name}: takes {len(inputs)} inputs ({listed}), expected one of pictures. Export it so")
    (given,) = inputs
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in given.shape)
    shown = f"{given.type} of {' x '.join(str(n or '?') for n in shape)}"
    if given.type not in _TYPES or len(shape) != 4 or 3 not in (shape[1] or 3, shape[3] or 3):
        raise CaseError(
            f"{name}: takes {shown}, expected float32 or float16 pictures x 3 x height x width, or with the 3 colours "
            "last. Export it so"
        )
    channels_first = (shape[1] or 3) == 3 and shape[3] != 3
    height, width = shape[2:] if channels_first else shape[1:3]
    size = config.size or height or width or _SIZE
    if (height or size, width or size) != (size, size):
        raise CaseError(
            f"{name}: takes {shown}, where `size` is {size}: set size to what it takes; height and width must be equal"
        )
    if config.resize is not None and config.resize < size:
        raise CaseError(f"{name}: resize {config.resize} is less than the network's size {size}")
    return _Input(given.name, _TYPES[given.type], size, channels_first, shape[0])


def _output(session: Any, config: NetworkConfig, name: str) -> str:
    names = [output.name for output in session.get_outputs()]
    if config.output is not None and config.output not in names:
        raise CaseError(f"{name}: has no output {config.output!r}; it has {', '.join(names)[:500]}")
    return config.output or str(names[0])


def _shape(taken: _Input) -> tuple[int, int, int]:
    return (3, taken.size, taken.size) if taken.channels_first else (taken.size, taken.size, 3)


def _run(session: Any, output: str, given: dict[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(session.run([output], given)[0])
    except Exception as exc:  # As above.
        raise CaseError(f"{name}: ONNX Runtime cannot run it: {str(exc).splitlines()[0][:300]}") from exc


def _vectors(found: np.ndarray, name: str) -> np.ndarray:
    """float32[n, d] of what a network gives."""
    if found.dtype.kind != "f" or found.ndim < 2 or found.shape[1] < 1 or any(n != 1 for n in found.shape[2:]):
        raise CaseError(
            f"{name}: gives {found.dtype} of {' x '.join(map(str, found.shape))}, expected pictures x numbers: name "
            "the `output` behind its pooling, or export it so"
        )
    return found.reshape(found.shape[:2]).astype(np.float32, copy=False)


@lru_cache(maxsize=4)
def _running(network: Network) -> _Running:
    """Once for each process; CaseError where the file is another than the one that was checked."""
    check_packages(network.name)
    try:
        digest = _digest(network.files)
    except OSError as exc:
        raise CaseError(f"{network.name}: cannot be read by a worker: {exc.strerror}. All workers must see it") from exc
    if digest != network.digest:
        raise CaseError(f"{network.name}: has changed since the run began, or is another file here. Start again")
    return _Running(network)


class _Running:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._session = _session(network.path, network.name)
        config = network.config
        self._mean, self._std = np.array(config.mean, np.float32), np.array(config.std, np.float32)

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """The network's input for one picture, of `_shape`."""
        config, size = self._network.config, self._network.taken.size
        x = np.asarray(fitted(picture, size, config), np.float32) / np.float32(255)
        x = (x - self._mean) / self._std
        return np.ascontiguousarray(x.transpose(2, 0, 1) if self._network.taken.channels_first else x)

    def vectors(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        taken, name = self._network.taken, self._network.name
        many = taken.many or _BATCH
        found = []
        for at in range(0, len(prepared), many):
            x = np.stack(prepared[at : at + many]).astype(taken.dtype, copy=False)
            n = len(x)
            if taken.many is not None and n < many:
                x = np.concatenate([x, np.repeat(x[-1:], many - n, axis=0)])
            vectors = _vectors(_run(self._session, self._network.output, {taken.name: x}, name), name)
            found.append(vectors[:n])
        return np.concatenate(found)


def fitted(picture: Image.Image, size: int, config: NetworkConfig) -> Image.Image:
    """A picture of ``size`` x ``size`` pixels; a crop's pixels are those of torchvision's Resize and CenterCrop."""
    how = _RESAMPLING[config.interpolation]
    if config.fit == "stretch":
        return picture.resize((size, size), how)
    side = config.resize or size
    width, height = picture.size
    shorter = min(width, height)
    scaled = picture.resize((max(side, side * width // shorter), max(side, side * height // shorter)), how)
    left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))

"""The names that pickles of arrays hold, and the advice for others that people meet.

A name outside the table is refused. A name in it is a symbol with a role, and nothing is ever imported.
"""

from __future__ import annotations

from dataclasses import dataclass

_CORES = ("numpy.core", "numpy._core")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_ROLES = {
    **{(f"{core}.multiarray", "_reconstruct"): "reconstruct" for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): "scalar" for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): "frombuffer" for core in _CORES},
    ("numpy", "ndarray"): "ndarray",
    # Two classes that differ from arrays in what they do, not in how their values lie.
    ("numpy", "matrix"): "ndarray",
    ("numpy.matrixlib.defmatrix", "matrix"): "ndarray",
    ("numpy", "memmap"): "ndarray",
    ("numpy.core.memmap", "memmap"): "ndarray",
    ("numpy.ma", "MaskedArray"): "masked",
    ("numpy.ma.core", "MaskedArray"): "masked",
    ("numpy.ma.core", "_mareconstruct"): "reconstruct_masked",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    # Protocols 1 and 2 write no bytes as bytes().
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    # What lies beside an array.
    ("collections", "OrderedDict"): "mapping",
    **{(module, name): "set" for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(module, name): "path" for module in ("pathlib", "pathlib._local") for name in _PATHS},
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): "wrapper",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
}
#: Storages of torch, and the dtype of their values.
_STORAGES = {
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "b1",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
#: The attributes of joblib's stand-in for an array.
WRAPPER_KEYS = ("subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes")

_ADVICE = {
    "pandas": "Save the numbers alone: numpy.save('x.npy', frame.to_numpy('float32'))",
    "torch": "Convert it: numpy.save('x.npy', tensor.detach().cpu().numpy())",
    "scipy": "Convert it: numpy.save('x.npy', matrix.toarray())",
    "cupy": "Convert it: numpy.save('x.npy', cupy.asnumpy(array))",
    "jax": "Convert it: numpy.save('x.npy', numpy.asarray(array))",
    "jaxlib": "Convert it: numpy.save('x.npy', numpy.asarray(array))",
    "tensorflow": "Convert it: numpy.save('x.npy', tensor.numpy())",
    "joblib": "Save it anew with today's joblib: joblib.dump(joblib.load('x.joblib'), 'y.joblib', compress=0)",
}


@dataclass(frozen=True)
class Global:
    """A name that a real unpickler would import, and what it is to us. `code` is the dtype of a storage."""

    module: str
    name: str
    role: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


GLOBALS = {
    **{(module, name): Global(module, name, role) for (module, name), role in _ROLES.items()},
    **{("torch", name): Global("torch", name, "storage", code) for name, code in _STORAGES.items()},
}

#: Short texts that a pickle writes once and names again later. Others need not be remembered.
WORDS = frozenset(
    text.encode()
    for text in (
        *(part for key in GLOBALS for part in key),
        *WRAPPER_KEYS,
        *("f2", "f4", "f8", "<", ">", "=", "|", "C", "F", "b", "latin1", "latin-1", "storage", ""),
    )
)


def advice(module: str) -> str | None:
    """What to do about something that `module` wrote, None where there is nothing special to say."""
    return _ADVICE.get(module.partition(".")[0])

"""Small ONNX networks, made in the tests that use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_network(
    file: Path,
    weights: np.ndarray,
    shape: Sequence[int | str | None] = ("n", 3, 8, 8),
    *,
    kind: int = TensorProto.FLOAT,
    spatial: bool = False,
    colors_last: bool = False,
) -> Path:
    """A network that gives ``weights`` (float32[d, 3]) times the mean colour of what it takes.

    With ``spatial`` a second output, ``map``, has what is not yet averaged over the pixels.
    """
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        *([helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if colors_last else []),
        helper.make_node("Conv", ["t" if colors_last else "x", "w"], ["map"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", kind, [shape[0], len(weights)])]
    if spatial:
        outputs.append(helper.make_tensor_value_info("map", kind, [None] * 4))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", kind, shape)],
        outputs,
        [numpy_helper.from_array(weights.astype(dtype)[:, :, None, None], "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return file

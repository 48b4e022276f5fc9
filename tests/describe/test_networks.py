"""Networks and built-in methods: vectors equal the same arithmetic in NumPy; what is no network is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import write_network
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from motorpool.config.describing import BuiltInConfig, NetworkConfig
from motorpool.config.load import parse_config
from motorpool.describe import network
from motorpool.describe.built_in import METHODS, built_in, color_histogram
from motorpool.describe.network import fitted, open_network
from motorpool.errors import CaseError, ConfigError, EnvironmentMissingError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WEIGHTS = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)


def picture(width: int = 13, height: int = 9, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def expected(
    pictures: list[Image.Image], weights: np.ndarray = WEIGHTS, mean: Any = MEAN, std: Any = STD
) -> np.ndarray:
    """Mean colours of pictures that have the network's size, prepared and weighed."""
    means = np.array([np.asarray(p, np.float64).reshape(-1, 3).mean(axis=0) for p in pictures])
    return ((means / 255 - mean) / std) @ weights.T


def vectors(config: NetworkConfig, pictures: list[Image.Image]) -> np.ndarray:
    # As tasks get it.
    ready = pickle.loads(pickle.dumps(open_network(config))).ready()
    return ready.vectors([ready.prepare(p) for p in pictures])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (("n", 3, 8, 8), {}),
        (("n", 3, "h", "w"), {}),
        ((None, None, None, None), {}),
        ((1, 3, 8, 8), {}),
        ((7, 3, 8, 8), {}),
        (("n", 8, 8, 3), {"colors_last": True}),
        (("n", "h", "w", 3), {"colors_last": True}),
        (("n", 3, 8, 8), {"kind": TensorProto.FLOAT16}),
    ],
)
def test_vectors_are_numpys(shape: Any, options: dict[str, Any], tmp_path: Path) -> None:
    file = write_network(tmp_path / "net.onnx", WEIGHTS, shape, **options)
    pictures = [picture(8, 8, seed) for seed in range(20)]
    found = vectors(NetworkConfig(model=str(file), size=8), pictures)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(pictures), rtol=1e-4, atol=2e-2 if "kind" in options else 1e-5)


def test_the_size_is_the_networks_own_or_that_of_the_config(tmp_path: Path) -> None:
    config = NetworkConfig(model=str(write_network(tmp_path / "net.onnx", WEIGHTS)))
    assert (open_network(config).taken.size, open_network(config).width) == (8, 6)
    free = NetworkConfig(model=str(write_network(tmp_path / "free.onnx", WEIGHTS, ("n", 3, "h", "w"))))
    assert open_network(free).taken.size == 224
    with pytest.raises(CaseError, match=r"net.onnx: takes .* of \? x 3 x 8 x 8, where `size` is 9: set size"):
        open_network(config.model_copy(update={"size": 9}))
    with pytest.raises(CaseError, match=r"resize 7 is less than the network's size 8"):
        open_network(config.model_copy(update={"resize": 7}))


@pytest.mark.parametrize(("width", "height"), [(13, 9), (9, 13), (40, 8), (8, 8), (1, 50), (3, 3)])
def test_photos_of_any_shape_fit(width: int, height: int) -> None:
    source = picture(width, height)
    crop = fitted(source, 8, NetworkConfig(model="x"))
    assert crop.size == (8, 8)
    scale = 8 / min(width, height)
    scaled = source.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 8) / 2), round((scaled.height - 8) / 2)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(scaled)[top : top + 8, left : left + 8])
    stretched = fitted(source, 8, NetworkConfig(model="x", fit="stretch", interpolation="bicubic"))
    np.testing.assert_array_equal(np.asarray(stretched), np.asarray(source.resize((8, 8), Image.Resampling.BICUBIC)))


def test_mean_std_and_output_are_the_configs(tmp_path: Path) -> None:
    file = write_network(tmp_path / "net.onnx", WEIGHTS, spatial=True)
    config = NetworkConfig(model=str(file), mean=[0, 0, 0], std=[1, 2, 1], output="y")
    pictures = [picture(8, 8)]
    np.testing.assert_allclose(vectors(config, pictures), expected(pictures, mean=0, std=[1, 2, 1]), rtol=1e-4)
    with pytest.raises(CaseError, match=r"has no output 'z'; it has y, map"):
        open_network(NetworkConfig(model=str(file), output="z"))
    with pytest.raises(CaseError, match=r"gives float32 of 1 x 6 x 8 x 8, expected pictures x numbers: name the"):
        open_network(NetworkConfig(model=str(file), output="map"))


def test_the_fingerprint_tells_networks_and_settings_apart(tmp_path: Path) -> None:
    file = write_network(tmp_path / "net.onnx", WEIGHTS)
    config = NetworkConfig(model=str(file))
    first = open_network(config).fingerprint
    (tmp_path / "moved.onnx").write_bytes(file.read_bytes())
    assert open_network(NetworkConfig(model=str(tmp_path / "moved.onnx"))).fingerprint == first
    # What is said is the same as what is found.
    assert open_network(NetworkConfig(model=str(file), size=8, output="y")).fingerprint == first
    others = [
        NetworkConfig(model=str(file), fit="stretch"),
        NetworkConfig(model=str(file), resize=9),
        NetworkConfig(model=str(file), mean=[0, 0, 0]),
        NetworkConfig(model=str(write_network(tmp_path / "other.onnx", WEIGHTS + 1))),
    ]
    assert len({first, *(open_network(c).fingerprint for c in others)}) == 5


def test_a_network_that_changes_is_refused_by_the_task(tmp_path: Path) -> None:
    file = write_network(tmp_path / "net.onnx", WEIGHTS)
    opened = open_network(NetworkConfig(model=str(file)))
    write_network(file, WEIGHTS + 1)
    with pytest.raises(CaseError, match=r"net.onnx: has changed since the run began"):
        opened.ready()
    file.unlink()
    with pytest.raises(CaseError, match=r"net.onnx: cannot be read by a worker"):
        opened.ready()


def with_external(file: Path, location: str) -> Path:
    """A network whose weights lie, as it says, in another file."""
    write_network(file, WEIGHTS)
    model = onnx.load(file)
    (tensor,) = model.graph.initializer
    raw = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(raw)))
    file.write_bytes(model.SerializeToString())
    return file


def test_numbers_beside_the_network_are_read_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    for place in (folder / "w.bin", tmp_path / "w.bin"):
        place.write_bytes(WEIGHTS.tobytes())
    file = with_external(folder / "net.onnx", "w.bin")
    pictures = [picture(8, 8)]
    np.testing.assert_allclose(vectors(NetworkConfig(model=str(file)), pictures), expected(pictures), rtol=1e-4)
    before = open_network(NetworkConfig(model=str(file))).fingerprint
    (folder / "w.bin").write_bytes((WEIGHTS + 1).tobytes())
    assert open_network(NetworkConfig(model=str(file))).fingerprint != before
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    for location in ("../w.bin", str(tmp_path / "w.bin"), "a/../../w.bin", "link.bin"):
        with_external(file, location)
        with pytest.raises(CaseError, match=r"net.onnx: says that numbers of it lie in .*, outside of its own folder"):
            open_network(NetworkConfig(model=str(file)))
    with_external(file, "absent.bin")
    with pytest.raises(CaseError, match=r"lie in 'absent.bin', which is not there"):
        open_network(NetworkConfig(model=str(file)))


def test_numbers_of_inner_graphs_are_looked_at_too(tmp_path: Path) -> None:
    file = with_external(tmp_path / "net.onnx", "../w.bin")
    model = onnx.load(file, load_external_data=False)
    inner = helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    branch = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)])
    outer = helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.ClearField("initializer")
    model.graph.node.append(outer)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(CaseError, match="outside of its own folder"):
        open_network(NetworkConfig(model=str(file)))


def custom_operation(file: Path) -> None:
    write_network(file, WEIGHTS)
    model = onnx.load(file)
    model.graph.node[0].domain, model.graph.node[0].op_type = "evil", "Run"
    model.opset_import.add(domain="evil", version=1)
    file.write_bytes(model.SerializeToString())


def two_inputs(file: Path) -> None:
    write_network(file, WEIGHTS)
    model = onnx.load(file)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda f: f.write_bytes(b"no network at all"), "is no ONNX network, or is damaged"),
        (lambda f: f.write_bytes(b""), "it has no operations"),
        (lambda f: f.write_bytes(write_network(f, WEIGHTS).read_bytes()[:-60]), "is no ONNX network, or is damaged"),
        (custom_operation, "ONNX Runtime cannot load it: .*evil"),
        (two_inputs, r"takes 2 inputs \(x, more\), expected one of pictures"),
        (
            lambda f: write_network(f, WEIGHTS[:, :1], ("n", 1, 8, 8)),
            r"takes tensor\(float\) of \? x 1 x 8 x 8, expect",
        ),
        (lambda f: write_network(f, WEIGHTS, ("n", 3, 8, 9)), r"takes .* x 8 x 9, where `size` is 8: set size to what"),
        (lambda f: f.unlink(missing_ok=True), "no such file"),
    ],
)
def test_what_is_no_network_is_refused(make: Any, told: str, tmp_path: Path) -> None:
    make(tmp_path / "net.onnx")
    with pytest.raises(CaseError, match=told) as caught:
        open_network(NetworkConfig(model=str(tmp_path / "net.onnx")))
    assert str(caught.value).startswith(f"{tmp_path}/net.onnx: ")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(network, "not_installed", lambda names: list(names))
    with pytest.raises(
        EnvironmentMissingError, match=r"net.onnx: a network needs onnx and onnxruntime, .* pip install"
    ):
        open_network(NetworkConfig(model=str(write_network(tmp_path / "net.onnx", WEIGHTS))))
    monkeypatch.setattr("motorpool.describe.built_in.not_installed", lambda names: list(names))
    with pytest.raises(
        EnvironmentMissingError, match=r"built in: hog: needs scikit-image, .* pip install scikit-image"
    ):
        built_in(BuiltInConfig(builtin="hog"))
    assert built_in(BuiltInConfig(builtin="color_histogram")).width == 392


# -- built-in methods --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_built_in_methods_give_vectors_of_their_width(name: Any) -> None:
    way = pickle.loads(pickle.dumps(built_in(BuiltInConfig(builtin=name)))).ready()
    found = way.vectors([way.prepare(picture(w, h)) for w, h in ((1, 1), (300, 20), (64, 64))])
    assert (found.shape, found.dtype) == ((3, way.width), np.float32)
    assert np.isfinite(found).all()
    assert len({m.fingerprint for m in METHODS.values()}) == len(METHODS)


def test_shares_of_colours_are_those_of_the_pixels() -> None:
    half = Image.new("RGB", (64, 64), (255, 0, 0))
    half.paste((0, 0, 255), (0, 0, 64, 16))
    shares = np.square(color_histogram(half)).reshape(2, -1)
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    # A quarter of the photo is blue, and none of its middle.
    assert sorted(shares[0][shares[0] > 0]) == pytest.approx([0.25, 0.75])
    assert sorted(shares[1][shares[1] > 0]) == pytest.approx([1])
    np.testing.assert_array_equal(color_histogram(half), color_histogram(half.transpose(Image.Transpose.ROTATE_180)))


def test_gradients_tell_outlines_and_not_paint() -> None:
    way = METHODS["hog"]
    bars = np.zeros((128, 128, 3), np.uint8)
    bars[:, ::32] = bars[:, 1::32] = 200
    upright, red = Image.fromarray(bars), Image.fromarray(bars * np.array([1, 0, 0], np.uint8))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    a, b, c = (way.prepare(p) for p in (upright, red, lying))
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a - c)


# -- config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "told"),
    [
        ({"model": "n.onnx", "std": [1, 0, 1]}, "case.descriptors.a: std .* all three must be above 0"),
        ({"model": "n.onnx", "mean": [1]}, "case.descriptors.a.mean: .* at least 3 items"),
        ({"model": "n.onnx", "size": 0}, "case.descriptors.a.size"),
        ({"model": "n.onnx", "size": 9, "resize": 8}, "resize 8: is less than size 9"),
        ({"model": "n.onnx", "fit": "stretch", "resize": 8}, "resize: is for `fit: crop`"),
        ({"model": "n.onnx", "file": "x"}, "case.descriptors.a.file: unknown key"),
        ({"builtin": "sift"}, "case.descriptors.a.builtin: .*'color_histogram' or 'hog'"),
    ],
)
def test_mistakes_in_the_config_are_told_by_their_key(descriptor: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config({"case": {"images_root": "x", "descriptors": {"a": descriptor}}, "lake": {"path": "l"}})


def test_a_case_needs_something() -> None:
    with pytest.raises(ConfigError, match=r"give `path` \(a case folder\), `images_root` \(photos\), or both"):
        parse_config({"case": {"descriptors": {"a": {"builtin": "hog"}}}, "lake": {"path": "l"}})

"""The recorded signatures beside the real cupy, cuML and spark-rapids-ml, and the project's own calls of them.

For the environment that `make rapids-contract` makes; needs no GPU. ``RAPIDS_RECORD=1`` writes the recording anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import requires
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import strict_arrays
from motorpool.backend import device as devices
from motorpool.backend.device import HostDevice
from motorpool.backend.library import CumlDbscan, CumlHdbscan, SklearnDbscan, SklearnHdbscan
from motorpool.backend.needs import missing
from motorpool.backend.protocol import GPU
from motorpool.kernels.maps.layouts import Layout
from motorpool.spark.estimators import estimators, fit_centroids, fit_components
from rapids_signatures import FILE, check, recorded
from rapids_uses import Use, names, uses

LACKS = [name for name in ("cupy", "cuml", "spark_rapids_ml") if find_spec(name) is None]
if LACKS:
    reason = f"{', '.join(LACKS)} not installed: `make rapids-contract` compares signatures with them"
    pytest.skip(reason, allow_module_level=True)
RECORD = bool(os.environ.get("RAPIDS_RECORD"))
NAMES = sorted(names())
#: Where cupy's default is another than NumPy's, and why that is all the same here.
OTHER_DEFAULTS = {
    # None warns or refuses where another value would: cupy casts as NumPy does by default, and has no subclasses.
    "cupy.ndarray().astype": {"casting": ("None", "'unsafe'"), "subok": ("None", "True")},
    # NumPy's None is float64.
    "cupy.ones": {"dtype": ("float", "None")},
    "cupy.zeros": {"dtype": ("float", "None")},
}
#: A value for each argument of an estimator in the code.
VALUES: dict[str, Any] = {
    "n_components": 2, "n_neighbors": 5, "random_state": 7, "output_type": "numpy", "init": "random",
    "build_algo": "brute_force_knn", "perplexity": 15.0, "n_clusters": 3, "n_init": 1, "eps": 0.5, "min_samples": 4,
    "max_mbytes_per_batch": 4096, "metric": "euclidean", "algorithm": "brute", "calc_core_sample_indices": True,
    "min_cluster_size": 9, "cluster_selection_method": "leaf",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _recording() -> None:
    if RECORD:
        from record import describe, versions

        made = {"versions": versions(), "names": {name: describe(name) for name in NAMES}}
        FILE.write_text(_one_name_a_line(made), encoding="utf-8")
        recorded.cache_clear()


def _one_name_a_line(made: dict[str, dict[str, Any]]) -> str:
    parts = []
    for part, held in made.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in held.items())
        parts.append(f' "{part}": {{\n{lines}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def test_versions() -> None:
    from record import versions

    assert versions() == recorded()["versions"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_as_recorded(name: str) -> None:
    from record import describe

    assert describe(name) == recorded()["names"][name]


def test_what_calls_give_is_what_uses_are_followed_to() -> None:
    import cupy

    assert isinstance(cupy.get_default_memory_pool(), cupy.cuda.MemoryPool)
    assert isinstance(cupy.cuda.Device(0), cupy.cuda.Device)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("cupy.")])
def test_arguments_left_out_mean_in_cupy_what_they_mean_in_numpy(name: str) -> None:
    """Kernels are written for an array module, whichever it is."""
    from record import describe

    owner = np.ndarray if name.startswith("cupy.ndarray().") else np
    theirs = getattr(owner, name.rpartition(".")[2], None)
    here = {p["name"]: p["default"] for p in describe(name).get("parameters", ()) if "default" in p}
    there = {p["name"]: p["default"] for p in record_of(theirs) if "default" in p}
    other = {key: (here[key], there[key]) for key in here.keys() & there.keys() if here[key] != there[key]}
    assert other == OTHER_DEFAULTS.get(name, {})


def record_of(found: Any) -> list[dict[str, Any]]:
    from record import shown_parameters

    return shown_parameters(found) if callable(found) else []


# -- what is refused, before any device is asked ----------------------------------------------------------


def test_ufuncs_refuse_what_is_not_recorded() -> None:
    """Their signatures are read from docstrings: calls with a number, refused without a device, show that they hold."""
    import cupy

    for name in strict_arrays.FUNCTIONS:
        function = getattr(cupy, name)
        if isinstance(function, cupy.ufunc):
            for keyword in ("where", "order", "subok", "axis"):
                with pytest.raises(TypeError, match="Wrong arguments"):
                    function(*[1.0] * function.nin, **{keyword: None})
                with pytest.raises(TypeError, match=keyword):
                    check(f"cupy.{name}", [1.0] * function.nin, [keyword])
            with pytest.raises(TypeError, match="Wrong number of arguments"):
                function(*[1.0] * (function.nargs + 1))
            with pytest.raises(TypeError, match="too many positional"):
                check(f"cupy.{name}", [1.0] * (function.nargs + 1), [])


@pytest.fixture
def away() -> Any:
    """float32[4, 3] of cupy, at a place that is no memory: what looks at its numbers fails."""
    import cupy

    memory = cupy.cuda.UnownedMemory(4096, 4096, None, 0)
    return cupy.ndarray((4, 3), np.float32, cupy.cuda.MemoryPointer(memory, 0))


def test_arrays_do_not_mix_with_numpys(away: Any) -> None:
    """The stand-in's rules, as far as cupy applies them without a device."""
    import cupy

    host = np.ones((4, 3), np.float32)
    mixes: list[Callable[[Any, Any], Any]] = [
        lambda x, xp: np.asarray(x),
        lambda x, xp: x @ host.T,
        lambda x, xp: xp.stack([x, host]),
        lambda x, xp: xp.nonzero(host),
    ]
    strict = strict_arrays.StrictDevice()
    for mix in mixes:
        for x, xp in ((away, cupy), (strict.put(host), strict.xp)):
            with pytest.raises(TypeError):
                mix(x, xp)


def test_arrays_have_the_methods_and_operators_of_the_stand_in(away: Any) -> None:
    import cupy

    for name in (*strict_arrays.METHODS, *strict_arrays.OPERATORS, *strict_arrays.IN_PLACE, "__len__", "__getitem__",
                 "__setitem__", "__bool__", "shape"):  # fmt: skip
        assert hasattr(cupy.ndarray, name), name
    assert (len(away), away.shape, away.T.shape, away[:, None].shape) == (4, (4, 3), (3, 4), (4, 1, 3))


# -- the project's own calls, as far as a device ------------------------------------------------------------


def test_a_machine_without_a_gpu_is_told_so() -> None:
    found = missing(["cupy", "cuml"])
    if not found:
        pytest.skip("there is a GPU")
    assert len(found) == 1
    assert found[0] == "no GPU" or found[0].startswith("no usable GPU, driver or CUDA library (cudaError")


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices.DEVICES, "cupy", HostDevice)


@pytest.mark.parametrize(("method", "dims"), [("umap", 2), ("umap", 3), ("tsne", 2)])
def test_layouts_are_constructed_and_go_as_far_as_the_device(
    on_host: None, monkeypatch: pytest.MonkeyPatch, method: Any, dims: int
) -> None:
    """The real estimators, made by the code that a task runs; with host arrays, which cuML takes as well."""
    import cuml.manifold
    import cupy

    cls: Any = cuml.manifold.UMAP if method == "umap" else cuml.manifold.TSNE
    made: list[Any] = []
    make = cls.__init__
    monkeypatch.setattr(cls, "__init__", lambda self, **given: (made.append(self), make(self, **given))[1])
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    layout = Layout(method, dims, 15, 15.0, 7)
    lay_out = GPU.layout_of(method, dims)
    assert lay_out is not None
    # RuntimeErrors are CUDA's; arguments that cuML does not know are TypeErrors.
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        assert lay_out(x, x[:, :dims], layout).shape == (60, dims)
    params = made[0].get_params()
    asked = {"n_components": dims, "random_state": 7, "output_type": "numpy"}
    asked |= (
        {"n_neighbors": 15, "build_algo": "brute_force_knn"}
        if method == "umap"
        else {"perplexity": 15.0, "init": "pca"}
    )
    assert {key: params[key] for key in asked} == asked
    if method == "umap":
        assert params["init"].shape == (60, dims)
        assert params["init"].dtype == np.float32


@pytest.mark.parametrize(
    "use", [u for u in uses() if u.call and "()" not in u.name and u.name.startswith("cuml.")], ids=str
)
def test_estimators_are_constructed(use: Use) -> None:
    assert use.call is not None
    module, _, name = use.name.rpartition(".")
    given = {key: VALUES[key] for key in use.call[1]}
    params = getattr(import_module(module), name)(**given).get_params()
    assert {key: params[key] for key in given} == given


def test_values_that_cuml_documents() -> None:
    """Values are looked at on a device only; the documentation of the very class names those that the code gives."""
    from cuml.manifold import TSNE, UMAP

    assert "'brute_force_knn'" in UMAP.__doc__
    assert "array-like with initial embedding positions" in UMAP.__doc__
    assert "Currently supports random or pca initialization" in TSNE.__doc__
    assert "Currently only 2 is supported" in TSNE.__doc__, "backend.layouts may allow more"
    for cls in (UMAP, TSNE):
        assert "'numpy'" in cls.__doc__


def test_cumls_dbscan_is_constructed_and_goes_as_far_as_the_device(
    on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real class, called by the adapter that a task runs; with host arrays, which cuML takes as well."""
    import cuml.cluster
    import cupy

    made: list[Any] = []
    asked: list[dict[str, Any]] = []
    cls: Any = cuml.cluster.DBSCAN
    make, fit = cls.__init__, cls.fit
    monkeypatch.setattr(cls, "__init__", lambda self, **given: (made.append(self), make(self, **given))[1])
    monkeypatch.setattr(cls, "fit", lambda self, x, **given: (asked.append(given), fit(self, x, **given))[1])
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    # RuntimeErrors are CUDA's; arguments that cuML does not know are TypeErrors.
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        labels, core = CumlDbscan().fit(x, 1.5, 4)
        theirs, theirs_core = SklearnDbscan().fit(x, 1.5, 4)
        assert np.array_equal(core, theirs_core)
        assert np.array_equal(labels < 0, theirs < 0)
    params = made[0].get_params()
    wanted = {"eps": 1.5, "min_samples": 4, "metric": "euclidean", "algorithm": "brute", "output_type": "numpy"}
    assert {key: params[key] for key in wanted} == wanted
    assert params["calc_core_sample_indices"] is True
    assert params["max_mbytes_per_batch"] == 1024
    assert asked == [{"out_dtype": "int64"}]


def test_cumls_hdbscan_is_constructed_and_goes_as_far_as_the_device(
    on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise."""
    import cuml.cluster
    import cupy

    made: list[Any] = []
    fitted: list[Any] = []
    cls: Any = cuml.cluster.HDBSCAN
    make, fit = cls.__init__, cls.fit
    monkeypatch.setattr(cls, "__init__", lambda self, **given: (made.append(self), make(self, **given))[1])
    monkeypatch.setattr(cls, "fit", lambda self, x: (fitted.append(x), fit(self, x))[1])
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    x[30:] += 30
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        labels, strengths = CumlHdbscan().fit(x, 9, 4, "leaf")
        theirs, _ = SklearnHdbscan().fit(x, 9, 4, "leaf")
        assert labels.shape == strengths.shape == theirs.shape
        assert set(labels) == set(theirs)
    params = made[0].get_params()
    wanted = {
        "min_cluster_size": 9, "min_samples": 3, "metric": "euclidean", "cluster_selection_method": "leaf",
        "build_algo": "brute_force", "output_type": "numpy", "cluster_selection_epsilon": 0.0, "max_cluster_size": 0,
        "alpha": 1.0, "allow_single_cluster": False,
    }  # fmt: skip
    assert {key: params[key] for key in wanted} == wanted
    assert (fitted[0].dtype, fitted[0].shape) == (np.float32, (60, 5))


def test_what_cumls_hdbscan_documents() -> None:
    from cuml.cluster import HDBSCAN

    told = " ".join(HDBSCAN.__doc__.split())
    assert "Allowed values: 'euclidean'." in told
    assert "Supported build algorithms are ['brute_force', 'nn_descent']" in told
    assert "Noisy samples are given the label -1." in told
    assert "Noise points have probability zero" in told
    # It searches one more than it is asked for: the row itself. The sentence on min_samples says otherwise.
    assert "Must be ≥ `min_samples+1`" in told
    assert "This includes the point itself" in told, "backend.library may follow what it says now"


def test_what_cumls_dbscan_documents() -> None:
    from cuml.cluster import DBSCAN

    assert "considered as an important core point (including the point itself)" in DBSCAN.__doc__
    assert "Noisy samples are labeled as\n        -1." in DBSCAN.__doc__
    assert "Options are int32 or int64" in " ".join(DBSCAN.fit.__doc__.split())


# -- spark-rapids-ml -----------------------------------------------------------------------------------------


def test_spark_rapids_mls_estimators_take_what_the_adapter_gives() -> None:
    import spark_rapids_ml

    assert spark_rapids_ml.__version__ == recorded()["versions"]["spark-rapids-ml"]
    names = [name for name in NAMES if name.startswith("spark_rapids_ml")]
    assert names == ["spark_rapids_ml.clustering.KMeans", "spark_rapids_ml.feature.PCA"]


@pytest.fixture(scope="module")
def local_spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        made = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
        spark = made.config("spark.driver.memory", "1g").getOrCreate()
        spark.sparkContext.setLogLevel("OFF")
        yield spark
        spark.stop()


@pytest.fixture
def vectors(local_spark: Any) -> Any:
    x = np.random.default_rng(0).normal(size=(60, 4))
    return local_spark.createDataFrame(list(enumerate(x.tolist())), "image_id BIGINT, vector ARRAY<FLOAT>")


def _as_far_as_the_device(call: Callable[[], Any]) -> Any:
    """What the call gives; None where a task, which has the rows, ended at its first call to a device."""
    from py4j.protocol import Py4JJavaError

    try:
        return call()
    except Py4JJavaError as exc:
        told = str(exc.java_exception)
        assert "_set_gpu_device" in told, told
        assert "CUDARuntimeError" in told, told
        return None


def test_the_kmeans_adapter_goes_as_far_as_the_device(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of k and seeds, the largest seed among them, as the pipeline asks for it."""
    from spark_rapids_ml.clustering import KMeans

    fitted: list[dict[str, Any]] = []
    fit: Any = KMeans._fit
    monkeypatch.setattr(KMeans, "_fit", lambda self, df: (fitted.append(dict(self.cuml_params)), fit(self, df))[1])
    library = estimators("spark-rapids-ml")
    assert library.rows(vectors).dtypes == [("features", "array<float>")]
    found = _as_far_as_the_device(lambda: fit_centroids(library, vectors, [(3, 2**32 - 1), (2, 5)], 7, 1e-3))
    assert found is None or [c.shape for c in found] == [(3, 4), (2, 4)]
    wanted = {
        "n_clusters": 3, "max_iter": 7, "tol": 1e-3, "random_state": 0x07FFFFFFF, "init": "k-means||", "n_init": "auto",
    }  # fmt: skip
    assert {key: fitted[0][key] for key in wanted} == wanted


def test_one_start_is_what_auto_means_to_kmeans_from_k_means_parallel() -> None:
    """Several starts are the adapter's own affair: each is a member of the grid."""
    from cuml.cluster import KMeans

    told = " ".join(KMeans.__doc__.split())
    assert (
        "When `n_init='auto'`, the number of runs depends on the value of `init`: 1 if using `init='\"k-means||" in told
    )


def test_the_pca_adapter_goes_as_far_as_the_device(vectors: Any) -> None:
    library = estimators("spark-rapids-ml")
    found = _as_far_as_the_device(lambda: fit_components(library, vectors, 2))
    assert found is None or (found[0].shape, found[1].shape) == ((4, 2), (2,))


def test_a_pca_model_tells_what_the_adapter_reads() -> None:
    """Made as spark-rapids-ml makes it of what its task sends; this part of it needs no device."""
    from spark_rapids_ml.feature import PCAModel

    components = [[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
    model = PCAModel([1.0, 2.0, 3.0], components, [0.75, 0.25], [2.0, 1.0], 3, "float32")
    assert np.array_equal(model.pc.toArray(), np.array(components).T)
    assert model.explainedVariance.toArray().tolist() == [0.75, 0.25]


def test_the_extra_asks_for_these_packages() -> None:
    from packaging.requirements import Requirement

    versions = recorded()["versions"]
    wanted = [Requirement(text) for text in requires("motorpool") or []]
    gpu = [r for r in wanted if r.marker and r.marker.evaluate({"extra": "gpu"}) and r.name in versions]
    assert {r.name for r in gpu} >= {"cuml-cu12", "cupy-cuda12x", "spark-rapids-ml"}
    assert [r.name for r in gpu if versions[r.name] not in r.specifier] == []

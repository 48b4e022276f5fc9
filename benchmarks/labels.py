"""How many looks of a person it takes: the labels of `motorpool label` against what one would do by hand.

    python benchmarks/labels.py [--images 4000] [--case DIR] [--looks 20,50,100,300,1000] [--seeds 5]
    python benchmarks/labels.py --full [--full-images 416314]                                   what it costs

Looks are simulated from the truth, on one half of the vehicles; accuracy is measured on the photos of the other half,
without outliers, as the mean of the seeds. Ours are typical photos of all descriptors side by side, and `compare` on
PCA 100 of every descriptor (plain and whitened within vehicles) and on KMeans models with k = 2..15. Beside it: random
photos and scikit-learn's logistic regression on the raw descriptors; and KMeans with as many clusters as looks, each
named by a look at the photo nearest its centre, on PCA 100. Both on every descriptor, of which the best in hindsight is
shown, and on all of them side by side. With `told` the descriptor that knows the attribute is named beforehand, as
`features` of an attribute do. No Spark but with --full.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA, HERE, entry, full_case, run_contender, step, write_report

REAL_CASE = HERE.parents[1] / "shared" / "case" / "IntelliVision_case"
LAKE = DATA / "lake-labels"
#: Attributes of the cases; whether the vehicle has them, and the descriptor that knows them.
TRUTHS = {"body_type": (True, "vdc_type"), "color": (True, "vdc_color"), "view": (False, "vdc_type")}
REAL_TRUTHS = {"type": (True, "vdc_type")}
TARGET = 0.95


class Case:
    """A case in memory: descriptors, truth, and what a lake would hold of it."""

    def __init__(self, folder: Path, truths: Mapping[str, tuple[bool, str]]) -> None:
        import csv

        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        from motorpool.case.arrays import open_array
        from motorpool.kernels.labels.within_vehicles import whitening
        from motorpool.labelling.candidates import Source, Space

        rows = list(csv.DictReader((folder / "attributes.csv").open()))
        self.truths = truths
        self.values = {name: np.array([r[name] for r in rows]) for name in truths}
        self.vehicle = np.unique([r["vehicle_id"] for r in rows], return_inverse=True)[1]
        self.good = np.array([not r["outlier"] for r in rows])
        self.raw: dict[str, np.ndarray] = {}
        self.sources: dict[tuple[str, str], Source] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.parent: dict[str, str] = {}
        for file in sorted((folder / "descriptors").glob("*.pickle")):
            array = open_array(str(file))
            x = np.concatenate([part for s in array.splits(4096) for _, part in array.read(s, 4096)]).astype(np.float32)
            self.raw[file.stem] = (x - x.mean(0)) / (x.std(0) + 1e-6)
            x = PCA(100, random_state=0).fit_transform(x).astype(np.float32)
            mean = x.mean(0, dtype=np.float64)
            plain = Space("plain", mean, np.eye(100) / np.sqrt(np.mean((x - mean) ** 2)))
            matrix = whitening(x, self.vehicle)
            assert matrix is not None
            for space in (plain, Space("whitened", mean, matrix)):
                self.sources[file.stem, space.name] = Source(file.stem, x, space)
            self.rows[file.stem], self.parent[file.stem] = x, file.stem
            for k in range(2, 16):
                name = f"{file.stem}-k{k}"
                labels = KMeans(k, n_init=3, random_state=0).fit(x).labels_.astype(np.int32)
                self.sources[name, "clusters"] = Source(name, labels)
                self.rows[name], self.parent[name] = labels, file.stem
        self.placed = {name: s.space.place(s.rows) for (name, space), s in self.sources.items() if space == "plain"}
        self.raw["all"] = np.hstack(list(self.raw.values()))
        self.placed["all"] = np.hstack(list(self.placed.values()))


def draw(case: Case, x: np.ndarray, pool: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Typical photos, one per vehicle while there are vehicles."""
    from motorpool.kernels.labels.typical import typical_rows

    first = pool[typical_rows(x[pool], min(n, len(pool)), seed)[0]]
    _, one = np.unique(case.vehicle[first], return_index=True)
    taken = first[np.sort(one)]
    while len(taken) < n:
        rest = pool[~np.isin(case.vehicle[pool], case.vehicle[taken])]
        rest = rest if len(rest) else np.setdiff1d(pool, taken)
        if not len(rest):
            break
        more = rest[typical_rows(x[rest], min(n - len(taken), len(rest)), seed)[0]]
        _, one = np.unique(case.vehicle[more], return_index=True)
        taken = np.concatenate([taken, more[np.sort(one)] if len(np.unique(case.vehicle[rest])) > 1 else more])
    return taken[:n]


def ours(case: Case, attribute: str, looks: np.ndarray, test: np.ndarray, seed: int, told: bool) -> dict[str, float]:
    """Accuracy, share accepted, accuracy of the accepted, and how much is promised beyond the accuracy."""
    from motorpool.kernels.labels.votes import vote
    from motorpool.labelling.candidates import log_probabilities
    from motorpool.labelling.compare import Known, compare

    votes, knows = case.truths[attribute]
    truth = case.values[attribute]
    names, code = np.unique(truth[looks], return_inverse=True)
    rows, values = looks, code
    if votes:
        of = dict(zip(case.vehicle[looks].tolist(), code.tolist(), strict=True))
        rows = np.flatnonzero(np.isin(case.vehicle, list(of)) & case.good)
        values = np.array([of[v] for v in case.vehicle[rows].tolist()])
    sources = {k: s.take(rows) for k, s in case.sources.items() if not told or case.parent[k[0]] == knows}
    began = time.perf_counter()
    choice = compare(Known(values, case.vehicle[rows], len(names), votes), sources, seed, TARGET)
    seconds = time.perf_counter() - began
    scores = log_probabilities(choice.parts, {p.source: case.rows[p.source][test] for p in choice.parts})
    if votes:
        scores = vote(scores, case.vehicle[test], int(case.vehicle.max()) + 1)[case.vehicle[test]]
    found = choice.calibration.probabilities(scores)
    right = names[found.argmax(axis=1)] == truth[test]
    top = found.max(axis=1)
    accepted = top >= choice.threshold if choice.threshold is not None else np.zeros(len(top), bool)
    return {
        "accuracy": float(right.mean()),
        "accepted": float(accepted.mean()),
        "right": float(right[accepted].mean()) if accepted.any() else float("nan"),
        "promised": float(top.mean() - right.mean()),
        "seconds": seconds,
    }


def by_hand(case: Case, attribute: str, pool: np.ndarray, test: np.ndarray, n: int, seed: int) -> dict[str, float]:
    """Accuracy of the two other ways, by way and descriptor."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression

    truth = case.values[attribute]
    looks = np.random.default_rng([seed, n]).choice(pool, n, replace=False)
    found = {}
    for name, x in case.raw.items():
        if len(np.unique(truth[looks])) > 1:
            model = LogisticRegression(max_iter=100).fit(x[looks], truth[looks])
            found[f"random, {name}"] = float((model.predict(x[test]) == truth[test]).mean())
        else:
            found[f"random, {name}"] = float((truth[looks][0] == truth[test]).mean())
    for name, x in case.placed.items():
        clusters = KMeans(n, n_init=1, random_state=seed).fit(x[pool])
        nearest = pool[clusters.transform(x[pool]).argmin(axis=0)]
        found[f"naming, {name}"] = float((truth[nearest][clusters.predict(x[test])] == truth[test]).mean())
    return found


def ways(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case, a row for each attribute and number of looks."""
    warnings.filterwarnings("ignore")
    real = args.kind == "real"
    case = Case(Path(args.case) if real else full_case(args.images), REAL_TRUTHS if real else TRUTHS)
    rows = []
    for attribute, (_, knows) in case.truths.items():
        for n in [int(n) for n in args.looks.split(",")]:
            kept: dict[str, list[float]] = defaultdict(list)
            for seed in range(args.seeds):
                vehicles = int(case.vehicle.max()) + 1
                half = np.zeros(vehicles, bool)
                half[np.random.default_rng(seed).permutation(vehicles)[: vehicles // 2]] = True
                pool = np.flatnonzero(half[case.vehicle] & case.good)
                test = np.flatnonzero(~half[case.vehicle] & case.good)
                n_looks = min(n, len(pool))
                for way, value in by_hand(case, attribute, pool, test, n_looks, seed).items():
                    kept[way].append(value)
                for told in (False, True):
                    looks = draw(case, case.placed[knows if told else "all"], pool, n_looks, seed)
                    for figure, value in ours(case, attribute, looks, test, seed, told).items():
                        kept[f"{'told' if told else 'ours'} {figure}"].append(value)
            mean = {way: float(np.nanmean(values)) for way, values in kept.items()}
            best = [max((v, w) for w, v in mean.items() if w.startswith(start)) for start in ("random", "naming")]
            rows.append(
                [
                    attribute, n, mean["ours accuracy"], mean["told accuracy"], mean["random, all"],
                    mean["naming, all"], best[0][0], best[1][0], mean["ours accepted"], mean["ours right"],
                    mean["ours promised"], mean["ours seconds"],
                ]
            )  # fmt: skip
            print(args.kind, rows[-1], file=sys.stderr, flush=True)
    return {"rows": rows, "vehicles": int(case.vehicle.max()) + 1, "images": len(case.vehicle)}


HEADER = [
    "attribute", "looks", "ours", "ours, told", "random + regression, all descriptors", "naming clusters, all",
    "random, best descriptor", "naming, best descriptor", "accepted at 0.95", "of these right", "promised too much",
    "seconds to compare",
]  # fmt: skip


def label(args: argparse.Namespace) -> dict[str, Any]:
    """`label` on a lake of made feature sets: three attributes, 300 looks each."""
    import pandas as pd
    from pyspark.sql import functions as F

    from motorpool.config.load import parse_config
    from motorpool.features.spec import FeatureSet, Part
    from motorpool.pipeline.context import Context
    from motorpool.pipeline.stages.label import run_label

    n = args.full_images
    attributes = {"type": {"per": "vehicle"}, "color": {"per": "vehicle"}, "view": {}}
    counts = {"type": 8, "color": 10, "view": 2}
    shutil.rmtree(LAKE, ignore_errors=True)
    content = {"lake": {"path": str(LAKE)}, "labels": {"attributes": attributes}}
    ctx = Context.start(parse_config(content))
    with step("lake"):
        ids = ctx.spark.range(n).withColumnRenamed("id", "image_id")
        vehicle = F.floor(F.col("image_id") / 10)
        images = ids.select(
            "image_id", F.concat(F.lit("v/"), "image_id").alias("path"), vehicle.cast("string").alias("vehicle_id")
        )
        ctx.lake.overwrite("images", images)
        for at, (name, values) in enumerate(counts.items()):
            owner = vehicle if attributes[name] else F.col("image_id")
            code = F.pmod(F.xxhash64(owner, F.lit(name)), F.lit(values))
            vector = F.array(*(F.randn(at * 100 + c) + 4 * (code == c % values).cast("int") for c in range(100)))
            vectors = ids.select("image_id", F.lit(name).alias("features"), vector.cast("array<float>").alias("vector"))
            ctx.lake.replace("features", vectors, {"features": [name]})
            spec = FeatureSet(name, (Part(name),))
            row = {
                "features": name, "descriptors": [name], "steps": [], "n_features": 100, "n_images": n,
                "explained_variance": None, "explained_variance_curve": None, "definition": spec.definition,
                "program": [],
            }  # fmt: skip
            ctx.lake.replace_rows("feature_sets", [row], {"features": [name]})
            chosen = pd.DataFrame({"image_id": np.arange(300) * (n // 300)})
            looks = ctx.spark.createDataFrame(chosen).select(
                "image_id", F.lit(name).alias("attribute"), code.cast("string").alias("value"),
                F.lit("me").alias("annotator"), F.lit("train").alias("purpose"), F.lit(None).alias("draw"),
                F.lit(None).alias("stratum"), F.lit(None).alias("weight"), F.current_timestamp().alias("created_at"),
            )  # fmt: skip
            held = ctx.lake.read_or_empty("annotations")
            rows = ctx.spark.createDataFrame([*held.collect(), *looks.collect()], ctx.lake.schema("annotations"))
            ctx.lake.overwrite("annotations", rows)
    with step("work"):
        run_label(ctx)
    return {r["attribute"]: [r["accuracy"], r["share_accepted"]] for r in ctx.lake.read("label_sets").collect()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000, help="photos of the sample case")
    parser.add_argument("--case", default=str(REAL_CASE), help="a case whose attributes file has a column `type`")
    parser.add_argument("--looks", default="20,50,100,300,1000")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="measure what labelling costs instead")
    parser.add_argument("--full-images", type=int, default=416_314)
    parser.add_argument("--kind", choices=["sample", "real"], help=argparse.SUPPRESS)
    args = entry({"ways": ways, "label": label}, parser)
    if args is None:
        return
    if args.full:
        done = run_contender(__file__, "label", ["--full-images", str(args.full_images)])
        shutil.rmtree(LAKE, ignore_errors=True)
        seconds, peak = done.steps.get("work", (None, None))
        write_report(
            "labels_full",
            f"What labelling costs: {args.full_images:,} images, three attributes, three feature sets of 100 columns",
            [("`motorpool label`, 300 looks at each attribute", ["seconds", "peak memory (GiB)", ""],
              [[seconds, peak, done.failed or "done"]])],
            f"One run in a process of its own, on made vectors. Accuracy and share accepted: {done.result}.",
        )  # fmt: skip
        return
    flags = ["--images", str(args.images), "--case", args.case, "--looks", args.looks, "--seeds", str(args.seeds)]
    tables, notes = [], []
    for kind in ("sample", "real"):
        if kind == "real" and not (Path(args.case) / "images_paths.csv").is_file():
            notes.append(f"The real case is left out: there is none at {args.case} (--case names another folder).")
            continue
        done = run_contender(__file__, "ways", [*flags, "--kind", kind])
        if done.failed:
            notes.append(f"The {kind} case failed: {done.failed}.")
            continue
        tables.append((f"{kind.capitalize()} case: accuracy on vehicles nobody looked at", HEADER, done.result["rows"]))
        notes.append(
            f"The {kind} case has {done.result['images']:,} photos of {done.result['vehicles']:,} vehicles; where half "
            "of the vehicles have fewer photos than there are looks, all of them are looked at."
        )
    write_report(
        "labels",
        "Labels from few looks, against what one would do by hand",
        tables,
        f"Means of {args.seeds} seeds. {' '.join(notes)} `told`: the descriptor that knows the attribute is named "
        "beforehand. `promised too much`: mean probability less accuracy.",
    )


if __name__ == "__main__":
    main()

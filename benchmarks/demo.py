"""A newcomer's first minutes: the demo's study and the small commands behind it, beside scripts that do the same work.

    python benchmarks/demo.py [--images 2000] [--repeat 3]

Ours are the commands of `make demo` and of its tour, each in a process of its own, as people type them. Beside the run:
a script of scikit-learn and umap-learn with the same feature sets, models, scores, outlier methods and maps, without
tables and report. Beside the small commands: deltalake on the same lake. Spark's event log says how many jobs a run
takes and for how long none was at work; the tables' logs say how many commits.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA, HERE, entry, event_log, idle, jobs_in, run_contender, step, write_report

FOLDER = DATA / "demo"
CASE, LAKE, EVENTS = FOLDER / "case", FOLDER / "lake", FOLDER / "events"
CONF = HERE.parent / "conf" / "sample.yaml"
#: Options of a run whose jobs `jobs_in` reads.
EVENT_LOG = [part for key, value in event_log(EVENTS).items() for part in ("--set", f"{key}={value}")]
#: What a person types, by name; `{lake}`, `{case}` and `{out}` stand for paths.
SMALL = {
    "sql SELECT 1": ["sql", "--lake", "{lake}", "SELECT 1"],
    "sql leaderboard": ["sql", "--lake", "{lake}", "SELECT * FROM leaderboard LIMIT 10"],
    "export": ["export", "--lake", "{lake}", "--out", "{out}/best.csv"],
    "assign": ["assign", "--lake", "{lake}", "--case", "{new}", "--out", "{out}/assigned.csv"],
    "report": ["report", "--lake", "{lake}", "--images", "{case}/raw_data", "--out", "{out}/report"],
}


def motorpool(*args: str) -> float:
    """Seconds of a command."""
    command = [str(Path(sys.executable).with_name("motorpool")), *args]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"motorpool {' '.join(args)}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def study(*more: str) -> float:
    paths = ("--set", f"case.path={CASE}", "--set", f"lake.path={LAKE}")
    return motorpool("run", "--conf", str(CONF), *paths, *more)


def first(args: argparse.Namespace) -> dict[str, Any]:
    """The study into a new lake: jobs, commits, and the seconds in which no job was at work."""
    for folder in (LAKE, EVENTS, FOLDER / "report"):
        shutil.rmtree(folder, ignore_errors=True)
    EVENTS.mkdir(parents=True)
    with step("work"):
        study(*EVENT_LOG)
    jobs = jobs_in(EVENTS)
    began, ended = jobs[0].began, max(job.ended for job in jobs)
    return {
        "jobs": len(jobs),
        "idle": idle(jobs, began, ended),
        "commits": len(list(LAKE.glob("*/_delta_log/*.json"))),
    }


def again(args: argparse.Namespace) -> dict[str, Any]:
    """The same run with nothing to do."""
    with step("work"):
        study()
    return {}


def small(args: argparse.Namespace) -> dict[str, Any]:
    """Each small command, the median of several."""
    new, out = FOLDER / "new", FOLDER / "out"
    if not new.exists():
        motorpool("sample", str(new), "--images", "300", "--seed", "2", "--no-images")
    out.mkdir(exist_ok=True)
    found = {}
    for name, command in SMALL.items():
        typed = [part.format(lake=LAKE, case=CASE, new=new, out=out) for part in command]
        found[name] = statistics.median(motorpool(*typed) for _ in range(args.repeat))
    return found


def by_hand(args: argparse.Namespace) -> dict[str, Any]:
    """A script of scikit-learn and umap-learn: the study's models, scores, outliers and maps without a lake."""
    import umap
    from sklearn.cluster import HDBSCAN, KMeans
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
    from sklearn.preprocessing import StandardScaler, minmax_scale, normalize

    from motorpool.case.arrays import open_array

    def read(name: str) -> np.ndarray:
        array = open_array(str(CASE / "descriptors" / f"{name}.pickle"))
        return np.concatenate([x for s in array.splits(4096) for _, x in array.read(s, 4096)]).astype(np.float32)

    def pca(name: str, n: int) -> np.ndarray:
        return PCA(n, random_state=0).fit_transform(read(name))

    with step("work"):
        kind, colour = pca("vdc_type", 50), pca("vdc_color", 50)
        both = [StandardScaler().fit_transform(pca(name, 20)) for name in ("vdc_type", "vdc_color")]
        sets = {
            "vdc_type-pca50": kind, "vdc_type-pca50-minmax": minmax_scale(kind), "vdc_color-pca50": colour,
            "osnet-pca100": pca("osnet", 100), "efficientnet-b7-pca100": pca("efficientnet-b7", 100),
            "type+color": normalize(np.hstack(both)),
        }  # fmt: skip
        models = 0
        for name, x in sets.items():
            fitted = [KMeans(k, n_init=3, random_state=42) for k in range(2, 11)]
            if name == "vdc_type-pca50":
                fitted += [HDBSCAN(min_cluster_size=m) for m in (10, 30)]
                fitted += [GaussianMixture(k, random_state=42) for k in (4, 6, 8)]
            for model in fitted:
                labels = model.fit_predict(x)
                inside = labels >= 0
                models += 1
                if len(np.unique(labels[inside])) > 1:
                    for score in (calinski_harabasz_score, davies_bouldin_score, silhouette_score):
                        score(x[inside], labels[inside])
        for name in ("vdc_type-pca50", "osnet-pca100"):
            IsolationForest(random_state=42).fit(sets[name]).score_samples(sets[name])
            NearestNeighbors(n_neighbors=20).fit(sets[name]).kneighbors()
            LocalOutlierFactor(n_neighbors=20).fit(sets[name])
        for name in ("vdc_type-pca50", "vdc_color-pca50", "osnet-pca100", "efficientnet-b7-pca100"):
            for dims in (2, 3):
                umap.UMAP(n_components=dims, random_state=42).fit_transform(sets[name])
    return {"models": models}


def query(args: argparse.Namespace) -> dict[str, Any]:
    """A question to the lake by deltalake and Arrow, in a process of its own."""
    from deltalake import DeltaTable

    with step("work"):
        rows = DeltaTable(str(LAKE / "models")).to_pyarrow_table(columns=["model_id", "silhouette"]).num_rows
    return {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    contenders = {"first": first, "again": again, "small": small, "by_hand": by_hand, "query": query}
    args = entry(contenders, parser)
    if args is None:
        return
    if not CASE.exists():
        motorpool("sample", str(CASE), "--images", str(args.images), "--seed", "1")
    shared = ["--images", str(args.images), "--repeat", str(args.repeat)]
    done = {name: [run_contender(__file__, name, shared) for _ in range(n)] for name, n in times(args.repeat).items()}
    rows = [[what, middle(runs), max(r.peak_gib for r in runs), runs[-1].failed or "done"] for what, runs in (
        ("`motorpool run`, new lake, 59 models", done["first"]),
        ("scikit-learn and umap-learn, the same models, scores, outliers and maps", done["by_hand"]),
        ("`motorpool run` again, nothing to do", done["again"]),
        ("deltalake: the models of the lake", done["query"]),
    )]  # fmt: skip
    found = done["first"][-1].result
    facts = [[found.get("jobs"), found.get("idle"), found.get("commits")]]
    commands = [[name, seconds] for name, seconds in done["small"][0].result.items()]
    write_report(
        "demo",
        f"The first minutes: the demo's study of {args.images:,} images, and small commands",
        [
            ("Whole processes", ["what", "seconds", "peak memory (GiB)", ""], rows),
            ("The first run", ["Spark jobs", "seconds without a job", "commits to tables"], facts),
            ("Commands on its lake", ["command", "seconds"], commands),
        ],
        f"{f'Medians of {args.repeat}' if args.repeat > 1 else 'One run each'}. Seconds are those of the work: ours "
        "start Java and Spark in them. scikit-learn's script reads the same files and writes nothing.",
    )
    shutil.rmtree(FOLDER, ignore_errors=True)


def times(repeat: int) -> dict[str, int]:
    """How often each contender runs, in this order: small commands repeat themselves."""
    return {"first": repeat, "again": 1, "small": 1, "by_hand": repeat, "query": repeat}


def middle(runs: Sequence[Any]) -> float:
    return statistics.median(r.work_seconds for r in runs)


if __name__ == "__main__":
    main()

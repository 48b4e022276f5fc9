"""Where a run ends: nothing to rank, nothing to agree on, nothing to start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from cases import blobs, run_of, write_case
from motorpool import cli
from motorpool.config.run import ReportConfig
from motorpool.pipeline.context import Context
from motorpool.pipeline.run import run_pipeline

ROWS = 40
#: One cluster of everything, noise everywhere, more clusters than images: fitted, each in its way, and not ranked.
NOTHING_RANKS: list[dict[str, Any]] = [
    {"algorithm": "dbscan", "eps": [100.0], "min_samples": 2},
    {"algorithm": "dbscan", "eps": [1e-3], "min_samples": 100},
    {"algorithm": "kmeans", "k": 300},
]


def config(folder: Path, models: list[dict[str, Any]], **sections: Any) -> Path:
    """A case of two descriptors, and a config that asks for ``models`` on both, in a Parquet lake."""
    write_case(folder / "case", ROWS, {"a": blobs(ROWS, 4), "b": blobs(ROWS, 3)})
    content = {
        "case": {"path": str(folder / "case")},
        "lake": {"path": str(folder / "lake"), "format": "parquet"},
        "features": [{"descriptor": "a"}, {"descriptor": "b"}],
        "cluster": {"models": models},
        **sections,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


def test_a_run_in_which_nothing_ranks_ends_well(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(
        tmp_path,
        NOTHING_RANKS,
        consensus={},
        outliers={"methods": ["knn_distance", "dbscan_noise"]},
        projections={"methods": ["pca"]},
        report={},
    )
    status = cli.main(["run", "--conf", str(file)])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "40 images, 6 models, 6 of them left out of the ranking" in out
    assert "No model can be ranked" in out
    for reason in ("it finds one cluster, with 40 of 40 images", "it leaves every image as noise"):
        assert reason in out
    assert "status, reason FROM models" in out
    assert "export" not in out
    assert "consensus: nothing to do: it takes two models or more" in " ".join(err.split())
    page = (tmp_path / "report" / "index.html").read_text()
    assert "it leaves every image as noise" in page
    held = {p.name for p in (tmp_path / "lake").iterdir()}
    assert {"outliers", "projections", "models"} <= held
    # A second run says the same.
    assert cli.main(["run", "--conf", str(file)]) == 0
    assert "No model can be ranked" in capsys.readouterr().out


def test_models_that_are_named_are_shown(spark: SparkSession, tmp_path: Path) -> None:
    models = [{"algorithm": "kmeans", "k": [2, 3, 4]}]
    ctx = run_of(
        spark, write_case(tmp_path / "case", ROWS, {"a": blobs(ROWS, 4)}), tmp_path / "lake", "parquet",
        features=[{"descriptor": "a"}], cluster={"models": models},
    )  # fmt: skip
    run_pipeline(ctx)
    board = ctx.lake.leaderboard().orderBy("rank").select("model_id", "n_clusters").collect()
    (last, k) = board[-1]
    named = ctx.config.model_copy(update={"report": ReportConfig(models=(last,))})
    run_pipeline(Context(named, spark, ctx.lake))
    page = (tmp_path / "report" / "index.html").read_text()
    for model_id in (board[0]["model_id"], last):
        assert f'id="c-{model_id}-0"' in page
    assert f'id="c-{board[1]["model_id"]}-0"' not in page
    assert f'id="c-{last}-{k - 1}"' in page
    assert "and those that the config names" in page


#: Hides packages as if they were not installed: `find_spec` finds nothing, `import` raises ModuleNotFoundError.
_HIDE = """
import sys
from importlib.machinery import PathFinder
hidden, found = sys.argv.pop(1).split(","), PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.split(".")[0] in hidden else found(name, *more)
"""


def without(packages: str, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _HIDE + code, packages, *args], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("args", [["--help"], ["run", "--conf", "x.yaml"], ["--version"]])
def test_without_spark_the_command_says_what_to_install(args: list[str]) -> None:
    done = without("pyspark", "from motorpool.cli import main; sys.exit(main())", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "motorpool: Spark is not installed here: pip install 'motorpool[spark]', or run on a cluster that has it\n"
    )


def test_without_the_reports_packages_only_what_needs_them_says_so(tmp_path: Path) -> None:
    packages = "jinja2,matplotlib,openTSNE,plotly,umap"
    # The only modules that draw as soon as they are imported, behind `check_packages`.
    modules = (
        "drawing = ('build', 'figures.drawing', 'sections.drift_section', 'sections.label_section',\n"
        "    'sections.map_section', 'sections.model_section', 'titles')\n"
        "import pkgutil, importlib, motorpool, json\n"
        "names = [m.name for m in pkgutil.walk_packages(motorpool.__path__, 'motorpool.')"
        " if m.name not in ('motorpool.spark.worker_daemon', *('motorpool.report.' + n for n in drawing))]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names))"
    )
    done = without(packages, modules)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
    file = config(tmp_path, [{"algorithm": "kmeans", "k": 2}], report={})
    run = "from motorpool.cli import main; sys.exit(main())"
    done = without(packages, run, "run", "--conf", str(file))
    assert done.returncode == 2
    assert "the report needs matplotlib, plotly, jinja2, not installed here: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_home_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Shells leave `~` alone behind `=`; what is not there is named as it was looked for."""
    monkeypatch.setenv("HOME", "/home/nobody-here")
    for args, expected in (
        (["sql", "--lake=~/lake", "SELECT 1"], "--lake /home/nobody-here/lake: there is no such folder"),
        (["run", "--conf=~/run.yaml"], "/home/nobody-here/run.yaml: cannot read the config"),
        (["report", "--lake=~/lake"], "--lake /home/nobody-here/lake: there is no such folder"),
    ):
        assert cli.main(args) in (1, 2)
        assert expected in capsys.readouterr().err


def test_home_in_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "~/case", "--images", "6", "--no-images"]) == 0
    assert (tmp_path / "case" / "images_paths.csv").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["sample", "{file}/x", "--images", "3"], "{file}/x: cannot be written: "),
        (["sample", "{file}", "--images", "3"], "{file} is a file: name a folder"),
        (["sql", "--lake", "{file}", "SELECT 1"], "{file}: is not a folder, expected a folder"),
        (["sql", "--lake", "", "SELECT 1"], "an empty path was given"),
        (["run", "--conf", "{folder}"], "{folder}: cannot read the config: Is a directory"),
        (["run", "--conf", "{conf}", "--set", "report.titles={folder}"], "{folder}: is a folder, expected a file"),
        (["run", "--conf", "{conf}", "--set", "report.titles={file}/x"], "{file}/x: no such file"),
        (["run", "--conf", "{conf}", "--set", "report.out={file}"], "report.out: {file}: is a file; name a folder"),
        (["run", "--conf", "{conf}", "--set", "seed=2026-13-45"], "the value is no valid YAML: month must be"),
        (["run", "--conf", "{conf}", "--set", "=3"], "expected key.sub=value"),
    ],
)
def test_files_and_folders_that_are_not_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], expected: str
) -> None:
    """Found before Spark starts, and told in a sentence."""
    (tmp_path / "file").write_text("")
    conf = config(tmp_path, [{"algorithm": "kmeans", "k": 2}], report={})
    names = {"file": tmp_path / "file", "folder": tmp_path, "conf": conf}
    assert cli.main([a.format(**names) for a in args]) in (1, 2)
    err = capsys.readouterr().err
    assert expected.format(**names) in err
    assert "--debug" not in err

"""Folders of .npy shards: one array, equal to NumPy's, whatever the number of files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from motorpool.case.arrays import open_array
from motorpool.errors import CaseError

X = np.random.default_rng(4).normal(size=(53, 7)) * 100


def write(folder: Path, x: np.ndarray, sizes: list[int], form: str = "img_emb_{}.npy") -> str:
    folder.mkdir()
    ends = np.cumsum(sizes)
    assert ends[-1] == len(x)
    for i, end in enumerate(ends):
        np.save(folder / form.format(i), x[end - sizes[i] : end])
    return str(folder)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("sizes", [[53], [20, 0, 33], [4] * 13 + [1], [0, 0, 53]])
def test_one_array(tmp_path: Path, sizes: list[int], dtype: str, order: str) -> None:
    """Ten files and more: their numbers sort otherwise than their names."""
    x = np.array(X, dtype, order=order)  # type: ignore[call-overload]
    folder = write(tmp_path / "clip", x, sizes)
    (tmp_path / "clip" / "_SUCCESS").write_text("")
    (tmp_path / "clip" / ".hidden.npy").write_text("")
    (tmp_path / "clip" / "metadata.parquet").write_text("")
    opened = pickle.loads(pickle.dumps(open_array(folder)))
    assert (opened.shape, opened.dtype, opened.name) == (x.shape, np.dtype(dtype), folder)
    splits = opened.splits(5)
    assert [s.first for s in splits] == list(np.cumsum([0, *(s.rows for s in splits)])[:-1])
    found = np.empty(x.shape, np.float32)
    for split in splits[::-1]:
        at = split.first
        for first, chunk in opened.read(split, 3):
            assert first == at
            found[first : first + len(chunk)] = chunk
            at += len(chunk)
        assert at == split.first + split.rows
    assert found.tobytes() == x.astype(np.float32).tobytes()


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match=r"empty: the folder holds no .npy file"):
        open_array(str(tmp_path / "empty"))
    folder = write(tmp_path / "clip", X, [50, 3])
    np.save(f"{folder}/img_emb_2.npy", X[:, :3])
    with pytest.raises(CaseError, match=r"img_emb_2.npy: holds 3 columns of float64, but .*img_emb_0.npy 7 of float64"):
        open_array(folder)
    np.save(f"{folder}/img_emb_2.npy", X.astype(np.float32))
    with pytest.raises(CaseError, match=r"img_emb_2.npy: holds 7 columns of float32"):
        open_array(folder)
    np.save(f"{folder}/img_emb_2.npy", np.array(["a"]))
    with pytest.raises(CaseError, match=r"img_emb_2.npy: the array holds"):
        open_array(folder)
    Path(folder, "img_emb_2.npy").unlink()
    opened = open_array(folder)
    np.save(f"{folder}/img_emb_1.npy", X[:40])
    with pytest.raises(CaseError, match=r"img_emb_1.npy: has [\d,]+ bytes now"):
        list(opened.read(opened.splits(100)[1], 100))

"""How rows spread within and between groups, from pieces of groups that may come in any number of batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from motorpool.kernels.runs import starts_of


@dataclass(frozen=True)
class Groups:
    """Groups of rows, or pieces of groups: ``keys`` object[g], ``n`` int64[g] rows, ``mean`` float64[g, d]."""

    keys: np.ndarray
    n: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Scatter:
    """Sums of squares and products of ``n`` rows in ``n_groups`` groups, ``n_repeated`` of two rows or more.

    ``within`` float64[d, d] is the sum over rows of (x - m_g)(x - m_g)^T, ``between`` that of n_g (m_g - m)(m_g - m)^T
    over groups, with the groups' means m_g and the mean of all rows m (``mean``, float64[d]). They add up to the
    scatter of all rows. Groups of one row are part of ``between`` alone.
    """

    n: int
    n_groups: int
    n_repeated: int
    mean: np.ndarray
    within: np.ndarray
    between: np.ndarray


def discriminants(within: np.ndarray, between: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which groups differ most for how much their rows do: values float64[d], vectors float64[d, d].

    Components W solve S_b w = l S_w w, the largest l first, with W^T S_w W = I (Fisher's linear discriminant analysis).
    S_w is ``within`` float64[d, d] shrunk towards a multiple of the identity, (1 - a) S_w + a tr(S_w) / d I with a =
    ``shrinkage`` > 0 or a regular S_w; S_b is ``between`` float64[d, d]. Memory: some four d x d matrices.
    """
    width = len(within)
    shrunk = (1 - shrinkage) * within + shrinkage * (np.trace(within) / width) * np.eye(width)
    values, vectors = scipy.linalg.eigh(between, shrunk, driver="gvd", check_finite=False)
    return np.clip(values[::-1], 0.0, None), vectors[:, ::-1]


def pieces(keys: np.ndarray, codes: np.ndarray, x: np.ndarray) -> tuple[Groups, np.ndarray]:
    """The groups in float32[m, d] rows, and the rows less their group's mean, float32[m, d] in the groups' order.

    ``codes`` int[m] are positions in ``keys``, object[g]. Groups come in the order of their codes; those without a row
    are left out. Memory: two float64 copies of the rows.
    """
    order = np.argsort(codes, kind="stable")
    held = codes[order]
    starts = starts_of(held)
    n = np.diff(np.append(starts, len(held)))
    rows = x[order].astype(np.float64)
    mean = np.add.reduceat(rows, starts, axis=0) / n[:, None]
    rows -= np.repeat(mean, n, axis=0)
    return Groups(keys[held[starts]], n, mean), rows.astype(np.float32)


class Merging:
    """Joins pieces of groups, which come with all pieces of a group in a row, to whole groups.

    Only the group at hand is remembered: more of it may come. ``within`` float64[d, d] sums up how the pieces spread
    about their groups' means, where ``spread`` asks for it: exactly what the pieces' own scatter leaves out of the
    groups' (the parallel update of Chan, Golub & LeVeque, 1979, for many pieces at once).
    """

    def __init__(self, *, spread: bool) -> None:
        self.spread = spread
        # Adds to matrices of any width.
        self.within = np.zeros(())
        self._open: Groups | None = None

    def add(self, more: Groups) -> Groups:
        """Take at least one piece; returns the groups that are complete by now."""
        held = more if self._open is None else _joined(self._open, more)
        starts = starts_of(held.keys)
        n = np.add.reduceat(held.n, starts)
        mean = np.add.reduceat(held.n[:, None] * held.mean, starts, axis=0) / n[:, None]
        whole = Groups(held.keys[starts], n, mean)
        if self.spread:
            self._add_spread(held, whole, np.diff(np.append(starts, len(held.n))))
        self._open = _part(whole, slice(-1, None))
        return _part(whole, slice(None, -1))

    def _add_spread(self, held: Groups, whole: Groups, lengths: np.ndarray) -> None:
        # Most groups are of one piece, which is their mean.
        several = np.repeat(lengths > 1, lengths)
        if several.any():
            gaps = (held.mean - np.repeat(whole.mean, lengths, axis=0))[several]
            gaps *= np.sqrt(held.n[several])[:, None]
            self.within = self.within + gaps.T @ gaps

    def close(self) -> Groups | None:
        """The last group, None where there is none."""
        last, self._open = self._open, None
        return last


def _joined(a: Groups, b: Groups) -> Groups:
    return Groups(np.concatenate([a.keys, b.keys]), np.concatenate([a.n, b.n]), np.concatenate([a.mean, b.mean]))


def _part(groups: Groups, which: slice) -> Groups:
    return Groups(groups.keys[which], groups.n[which], groups.mean[which])


class GroupScatter:
    """The state of a fold over pieces: all pieces of a group in a row, and in one state. Merges exactly.

    In float64, centred on the running mean throughout, so that a mean far from zero costs no digits. Memory: two
    d x d matrices.
    """

    def __init__(self) -> None:
        self.n = 0
        self.n_groups = 0
        self.n_repeated = 0
        self.mean = np.empty(0)
        self.between = np.zeros(())
        self.within = np.zeros(())
        self._merging = Merging(spread=True)

    def update(self, more: Groups) -> None:
        if len(more.n):
            self._count(self._merging.add(more))

    def _count(self, whole: Groups) -> None:
        """Add whole groups: their means, each as often as the group has rows."""
        total = int(whole.n.sum())
        if not total:
            return
        self.n_groups += len(whole.n)
        self.n_repeated += int((whole.n > 1).sum())
        mean = whole.n @ whole.mean / total
        gaps = (whole.mean - mean) * np.sqrt(whole.n)[:, None]
        self._add(total, mean, gaps.T @ gaps)

    def _add(self, n: int, mean: np.ndarray, between: np.ndarray) -> None:
        if not self.n:
            self.n, self.mean, self.between = n, mean, between
            return
        delta = mean - self.mean
        self.between += between
        self.between += np.outer(delta * (self.n * n / (self.n + n)), delta)
        self.mean = self.mean + delta * (n / (self.n + n))
        self.n += n

    def _close(self) -> None:
        last = self._merging.close()
        if last is not None:
            self._count(last)
        self.within = self.within + self._merging.within
        self._merging = Merging(spread=True)

    def merge(self, other: GroupScatter) -> None:
        self._close()
        other._close()
        if not other.n:
            return
        self._add(other.n, other.mean, other.between)
        self.n_groups += other.n_groups
        self.n_repeated += other.n_repeated
        self.within = self.within + other.within

    def scatter(self, inside: np.ndarray) -> Scatter:
        """``inside`` float64[d, d], or 0, is the scatter of the rows about their pieces' means."""
        self._close()
        zero = np.zeros((len(self.mean), len(self.mean)))
        within, between = zero + inside + self.within, zero + self.between
        return Scatter(self.n, self.n_groups, self.n_repeated, self.mean, within, between)

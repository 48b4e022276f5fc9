"""What outlier methods score a feature set by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pyspark.sql import DataFrame

from motorpool.backend.protocol import Backend
from motorpool.features.program import Program
from motorpool.features.vehicle_steps import Vehicles
from motorpool.kernels.pairs.sweep import Wanted
from motorpool.neighbours.queries import nearest_of_all, nearest_others, nearest_rows
from motorpool.neighbours.search import search
from motorpool.neighbours.shards import Arranged, arrange
from motorpool.outliers.local import nearest
from motorpool.outliers.odd_one_out import Compared, odd_one_out
from motorpool.outliers.reasons import NEIGHBOURS
from motorpool.spark import blocks


@dataclass
class Resources:
    """A feature set, and all that methods make of it in common: each thing is made when it is first asked for, once.

    ``vectors`` has image_id and vector. ``models`` are the ids of the models that each method reads the labels of,
    ``read_labels`` gives the labels of some models (image_id, model_id, cluster, outlier_score), ``read_descriptors``
    what a program reads: raw descriptors by name, and columns of groups, beside image_id. ``say`` gets messages on the
    search's progress.

    Persisted frames stay until `release`.
    """

    vectors: DataFrame
    k: int
    seed: int
    backend: Backend
    models: Mapping[str, Sequence[str]]
    known_vehicles: Vehicles | None
    read_labels: Callable[[Sequence[str]], DataFrame]
    read_descriptors: Callable[[Program], DataFrame]
    read_program: Callable[[], Program]
    say: Callable[[str], None]
    #: The vectors as blocks, where somebody keeps these already.
    gathered: DataFrame | None = None
    _held: list[Callable[[], object]] = field(default_factory=list)
    _nearest_in: DataFrame | None = None

    def persist(self, df: DataFrame) -> DataFrame:
        """``df``, persisted until `release`."""
        kept = blocks.persist(df)
        self._held.append(kept.unpersist)
        return kept

    def release(self) -> None:
        for drop in self._held:
            drop()
        self._held.clear()

    @cached_property
    def block_df(self) -> DataFrame:
        """The vectors as blocks of rows."""
        return self.persist(blocks.gather(self.vectors)) if self.gathered is None else self.gathered

    @cached_property
    def program(self) -> Program:
        """What made the vectors from raw descriptors."""
        return self.read_program()

    @cached_property
    def arranged(self) -> Arranged:
        """The vectors arranged for searches, Euclidean."""
        found = arrange(self.block_df, "euclidean", self.seed)
        self._held.append(found.release)
        return found

    @cached_property
    def found(self) -> DataFrame:
        """The state of the search for the ``k`` nearest rows (see `neighbours.search`)."""
        state = search(self.arranged, Wanted(k=self.k), self.say, self.backend)
        self._held.append(state.unpersist)
        return state

    @cached_property
    def nearest(self) -> DataFrame:
        """image_id and neighbours, the few nearest that reasons name."""
        return self.persist(nearest(self.arranged, self.found, NEIGHBOURS))

    def nearest_in(self, study: Resources) -> DataFrame:
        """The nearest images of ``study`` for each of these, which are not among them, as NEAREST.

        As many as its own images are compared with: ``study.k``, or all but one. Searched for when first asked for.
        """
        if self._nearest_in is None:
            found = nearest_rows(study.arranged, self.persist(self.block_df), study.n_neighbours, seed=study.seed)
            self._nearest_in = self.persist(found)
        return self._nearest_in

    @property
    def n_neighbours(self) -> int:
        """How many neighbours an image is compared with: ``k``, or all others where there are fewer."""
        return max(1, min(self.k, self.arranged.n - 1))

    def nearest_others(self, ids: DataFrame) -> DataFrame:
        """The ``n_neighbours`` nearest other images of those with some ``ids`` (image_id), or of all, as NEAREST.

        Half of the images or more cost as much as `found`, which looks at every pair once: then it is that.
        """
        if "found" in self.__dict__ or 2 * ids.count() >= self.arranged.n:
            return nearest_of_all(self.arranged, self.found, self.n_neighbours)
        some = self.persist(blocks.gather(self.vectors.join(ids, on="image_id", how="left_semi")))
        return self.persist(nearest_others(self.arranged, some, self.n_neighbours, seed=self.seed))

    @cached_property
    def compared(self) -> Compared:
        """Photos beside the others of their vehicle."""
        if self.known_vehicles is None:
            raise ValueError("vehicles are not known here: the method needs `vehicles` among its `needs`")
        found = odd_one_out(self.vectors.select("image_id", "vector"), self.known_vehicles)
        self._held.append(found.release)
        return found

    def labels_of(self, method: str) -> DataFrame:
        """The labels of the models that the method reads; no row where it reads none."""
        return self.read_labels(self.models.get(method, ()))

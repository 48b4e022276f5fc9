"""What a reader of the report types to go on, ready to be copied."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from motorpool.lake import Lake


@dataclass(frozen=True)
class Commands:
    """Commands for one lake; ``where`` names it on a command line, ``lake`` as an argument."""

    where: str
    lake: str

    @classmethod
    def of(cls, lake: Lake) -> Commands:
        if lake.root is None:
            return cls("--conf FILE", "EARLIER_LAKE")
        return cls(f"--lake {shlex.quote(lake.root)}", shlex.quote(lake.root))

    def export(self, model_id: str) -> str:
        """All images of a model with their clusters, as CSV."""
        return f"motorpool export {self.where} --model {shlex.quote(model_id)} --out clusters.csv"

    def cluster(self, model_id: str, cluster: int) -> str:
        """All photos of a cluster, as CSV."""
        return self._sql(
            f"SELECT path, vehicle_id, distance FROM assignments WHERE model_id = {_literal(model_id)} "  # noqa: S608
            f"AND cluster = {cluster} ORDER BY distance",
            f"cluster-{cluster}.csv",
        )

    def review(self, model_id: str) -> str:
        """The page on which people look at the clusters of a model, and say what they see."""
        return f"motorpool review {self.where} --model {shlex.quote(model_id)} --attribute NAME --images DIR"

    def titles(self, report: str) -> str:
        """Titles of a file, into the lake and onto the page."""
        return f"motorpool titles {self.where} --add --titles titles.yaml --report {shlex.quote(report)}"

    def far_images(self, model_id: str, first: int, far_from: float | None) -> str:
        """The appended images, whose ids begin with ``first``, that lie far from every cluster, as CSV."""
        far = "cluster < 0" if far_from is None or math.isnan(far_from) else f"(cluster < 0 OR distance > {far_from!r})"
        return self._sql(
            f"SELECT path, cluster, distance FROM assignments WHERE model_id = {_literal(model_id)} "  # noqa: S608
            f"AND image_id >= {first} AND {far} ORDER BY distance DESC",
            "far.csv",
        )

    def new_fit(self) -> list[str]:
        """A lake of all images in one case, and the ids of the former clusters for its own."""
        return [
            "motorpool run --conf FILE --set case.path=ALL_IMAGES --set lake.path=NEW_LAKE",
            f"motorpool match --lake NEW_LAKE --earlier {self.lake}",
        ]

    def maps(self, features: str) -> str:
        """All places of a feature set on its maps, as CSV."""
        return self._sql(
            f"SELECT * FROM projections WHERE features = {_literal(features)}",  # noqa: S608 (shown, not run)
            "maps.csv",
        )

    def _sql(self, query: str, out: str) -> str:
        return f"motorpool sql {self.where} --output csv {shlex.quote(query)} > {out}"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

"""What a reader of the report types to go on, ready to be copied."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from motorpool.lake import Lake


@dataclass(frozen=True)
class Commands:
    """Commands for one lake; ``where`` names it on a command line."""

    where: str

    @classmethod
    def of(cls, lake: Lake) -> Commands:
        return cls("--conf FILE" if lake.root is None else f"--lake {shlex.quote(lake.root)}")

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

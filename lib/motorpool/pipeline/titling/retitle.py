"""New titles for the clusters of a lake, without counting anything again."""

from __future__ import annotations

import json
from collections.abc import Collection

from motorpool.errors import LakeError
from motorpool.interpret.overrides import Overrides
from motorpool.lake import Lake
from motorpool.pipeline.titling.given import titles_fingerprint
from motorpool.pipeline.titling.words import reword, stored_evidence, write_given


def retitle(lake: Lake, given: Overrides) -> list[str]:
    """Bring all models to what people call their clusters, by model_id; returns the ids of those that changed.

    Titles and descriptions become what `motorpool interpret` would make of them with these titles: made ones come
    back where people give none any more. LakeError where an interpreted model has no evidence in the lake, as those of
    earlier versions. Driver memory: the rows of ``clusters`` of the models that change, and their evidence.
    """
    stored = {r["model_id"]: r["params"] for r in lake.rows("interpretations", ["model_id", "params"])}
    asked = {
        model_id: params | {"titles": titles_fingerprint(given, {model_id, *json.loads(params["peers"])})}
        # A run that was killed has left others for the next one.
        for model_id, params in stored.items()
        if "peers" in params
    }
    changed = [m for m, params in asked.items() if params != stored[m]]
    evidence = stored_evidence(lake, changed)
    lacking = [m for m in changed if m not in evidence]
    if lacking:
        raise LakeError(
            f"model {lacking[0]}: the lake {lake} keeps no evidence of its clusters, since an earlier version wrote "
            "it: run `motorpool interpret --conf FILE` once"
        )
    if evidence:
        peers = {peer for m in evidence for peer in json.loads(asked[m]["peers"])}
        reword(lake, evidence, given, peers, asked)
    others = [m for m in _with_titles(lake) | {m for m, _ in given} if m not in stored]
    before = _titles_of(lake, others)
    write_given(lake, given, others)
    after = _titles_of(lake, others)
    return sorted({*evidence, *(m for m, _ in set(before.items()) ^ set(after.items()))})


def _with_titles(lake: Lake) -> set[str]:
    rows = lake.rows("clusters", ["model_id", "title", "description"])
    return {r["model_id"] for r in rows if r["title"] is not None or r["description"] is not None}


def _titles_of(lake: Lake, model_ids: Collection[str]) -> dict[str, str]:
    """What the clusters of models are called, as one text each."""
    rows = lake.rows("clusters", ["model_id", "cluster", "title", "description"], model_id=sorted(model_ids))
    texts: dict[str, list[tuple[int, str | None, str | None]]] = {m: [] for m in model_ids}
    for row in rows:
        texts[row["model_id"]].append((row["cluster"], row["title"], row["description"]))
    return {m: json.dumps(sorted(found, key=lambda r: r[0])) for m, found in texts.items()}

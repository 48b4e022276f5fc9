"""Titles and descriptions in ``clusters``, made from evidence: that of this run, or that which the lake keeps."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from motorpool.interpret.evidence import Evidence
from motorpool.interpret.overrides import Override, Overrides
from motorpool.interpret.stored import from_text, to_text
from motorpool.interpret.wording import PEOPLE, basis_of, describe, titles
from motorpool.lake import Lake
from motorpool.pipeline.models import UNTITLED

#: Parameters of ``interpretations`` that words depend on and evidence does not.
_WORDING = frozenset({"titled", "titles", "words"})
#: ``model_id, cluster`` and the columns of UNTITLED.
Row = dict[str, Any]


def stored_evidence(lake: Lake, model_ids: Sequence[str]) -> dict[str, list[Evidence]]:
    """The evidence of models by cluster; only of those of which every cluster has it."""
    if not model_ids:
        return {}
    rows = lake.rows("clusters", ["model_id", "cluster", "evidence"], model_id=model_ids)
    found: dict[str, dict[int, str | None]] = {m: {} for m in model_ids}
    for row in rows:
        found[row["model_id"]][row["cluster"]] = row["evidence"]
    return {
        model_id: [from_text(str(texts[c])) for c in sorted(texts)]
        for model_id, texts in found.items()
        if texts and all(text is not None for text in texts.values())
    }


def facts_of(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of ``interpretations`` that evidence and members depend on."""
    return {name: value for name, value in params.items() if name not in _WORDING}


def reword(
    lake: Lake,
    evidence: Mapping[str, Sequence[Evidence]],
    given: Overrides,
    others: Collection[str],
    params: Mapping[str, Mapping[str, str]],
    new: Mapping[str, Sequence[Evidence]] | None = None,
) -> None:
    """Make the titles of interpreted models again, from evidence; ``params`` are those of all of them afterwards.

    ``new`` is the evidence of models that are not in ``interpretations`` yet, which get their first titles.

    Were this killed in between, ``interpretations`` says that these models lack their words, and nothing else.
    """
    _set_params(lake, {m: facts_of(params[m]) for m in evidence})
    write_titles(lake, {**evidence, **(new or {})}, given, others)
    _set_params(lake, {m: params[m] for m in evidence})


def _set_params(lake: Lake, params: Mapping[str, Mapping[str, str]]) -> None:
    if not params:
        return
    rows = lake.rows("interpretations", model_id=sorted(params))
    new = [row | {"params": dict(params[row["model_id"]])} for row in rows]
    lake.replace_rows("interpretations", new, {"model_id": sorted(params)})


def write_titles(
    lake: Lake, evidence: Mapping[str, Sequence[Evidence]], given: Overrides, others: Collection[str]
) -> None:
    """Titles first, as descriptions name other clusters by them: as people call them where they do.

    ``others`` are models whose clusters descriptions name too, with the titles that they have in the lake.
    """
    rest = sorted(set(others) - set(evidence))
    known = lake.rows("clusters", ["model_id", "cluster", "title"], model_id=rest) if rest else []
    named = {(r["model_id"], r["cluster"]): r["title"] for r in known if r["title"] is not None}
    made: dict[tuple[str, int], str] = {}
    for model_id, model in evidence.items():
        made |= {(model_id, cluster): title for cluster, title in titles(model).items()}
    named |= made
    named |= {key: o.title for key, o in given.items() if o.title is not None}
    rows: list[Row] = []
    for model_id, model in evidence.items():
        by_cluster = {e.cluster: e for e in model}
        for e in model:
            override = given.get((model_id, e.cluster), Override())
            rows.append(
                {
                    "model_id": model_id,
                    "cluster": e.cluster,
                    "title": named[model_id, e.cluster],
                    "description": override.description or describe(e, by_cluster, named),
                    **_basis(override, made[model_id, e.cluster], e),
                    "given": override.to_text(),
                    "evidence": to_text(e),
                }
            )
    _replace(lake, rows)


def _basis(override: Override, title: str, e: Evidence) -> Row:
    if override.title is not None:
        return {"title_from": PEOPLE, "title_share": None}
    found = basis_of(title, e)
    return {"title_from": found.source, "title_share": found.share}


def given_before(lake: Lake) -> Overrides:
    """What people call clusters by the lake itself, by model_id."""
    rows = lake.rows("clusters", ["model_id", "cluster", "given"])
    return {(r["model_id"], r["cluster"]): Override(**json.loads(r["given"])) for r in rows if r["given"] is not None}


def write_given(lake: Lake, given: Overrides, model_ids: Collection[str]) -> bool:
    """What people call the clusters of models that are not interpreted; False where the table says so already."""
    ids = sorted(model_ids)
    if not ids:
        return False
    before = lake.rows("clusters", ["model_id", "cluster", *UNTITLED], model_id=ids)
    new = [_given_row(row["model_id"], row["cluster"], given) for row in before]
    if new == before:
        return False
    _replace(lake, new)
    return True


def _given_row(model_id: str, cluster: int, given: Overrides) -> Row:
    override = given.get((model_id, cluster), Override())
    source = None if override.title is None else PEOPLE
    texts = {"title": override.title, "description": override.description, "title_from": source}
    return {"model_id": model_id, "cluster": cluster, **UNTITLED, **texts, "given": override.to_text()}


def _replace(lake: Lake, rows: Sequence[Row]) -> None:
    ids = sorted({r["model_id"] for r in rows})
    texts = {(r["model_id"], r["cluster"]): r for r in rows}
    table = lake.fetch("clusters", model_id=ids)
    keys = zip(table.column("model_id").to_pylist(), table.column("cluster").to_pylist(), strict=True)
    new = [texts.get(key, UNTITLED) for key in keys]
    for name in UNTITLED:
        at = table.schema.get_field_index(name)
        column = pa.array([row[name] for row in new], table.schema.field(at).type)
        table = table.set_column(at, name, column)
    lake.replace_rows("clusters", table, {"model_id": ids})

"""From Spark's SQL to DuckDB's, for queries of which it is known that both give the same answer.

sqlglot reads and writes the SQL. What is known stands here, node by node: everything else is refused, so that no
function answers by its name alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from motorpool.lake.sql import NotUnderstoodError, UnknownTableError

#: How deep a query may be nested: parser and writer call themselves.
_DEPTH = 100


#: Nodes that mean the same in both, as they are written.
_SAME: frozenset[type[exp.Expr]] = frozenset(
    {
        # Queries and their parts.
        exp.Select, exp.From, exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Limit, exp.Offset, exp.With,
        exp.CTE, exp.Subquery, exp.Union, exp.Except, exp.Intersect, exp.Alias, exp.TableAlias, exp.Identifier,
        exp.Column, exp.Star, exp.Join, exp.Table, exp.Distinct, exp.Paren, exp.Window, exp.WindowSpec,
        exp.Filter, exp.Dot, exp.Lambda,
        # Values and conditions.
        exp.Literal, exp.Null, exp.Boolean, exp.Is, exp.Not, exp.And, exp.Or, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT,
        exp.LTE, exp.NullSafeEQ, exp.In, exp.Between, exp.Exists, exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Neg,
        exp.Abs, exp.Like,
        # Aggregates and windows.
        exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.RowNumber, exp.Rank, exp.DenseRank, exp.Lag,
        exp.Lead, exp.PercentRank, exp.CumeDist,
        # Texts and arrays.
        exp.Length, exp.StartsWith, exp.EndsWith, exp.Contains, exp.Substring,
        exp.ArraySize, exp.Transform,
    }
)  # fmt: skip
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.In, exp.Between)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul)
_WHOLE_TYPES = {exp.DataType.Type.INT: "INTEGER", exp.DataType.Type.BIGINT: "BIGINT"}
#: How often the rewriting of a node writes its arguments.
_COPIES: Mapping[type[exp.Expr], int] = {
    exp.Div: 2, exp.Mod: 2, exp.Round: 6, exp.Coalesce: 2, exp.If: 2, exp.Case: 2, exp.TryCast: 8, exp.Cast: 8,
    exp.Bracket: 3, exp.Concat: 5, exp.DPipe: 5, exp.ConcatWs: 5, exp.Floor: 6, exp.Ceil: 6,
}  # fmt: skip
#: So often may a leaf of an expression be written: some tenths of a second of planning.
_MOST_COPIES = 1000
#: Characters that mean something in a regular expression.
_PATTERN = re.compile(r"[\\^$.|?*+()\[\]{}]")
#: Arguments of nodes that change what they mean, and are not asked for.
_UNKNOWN_ARGS: Mapping[type[exp.Expr], tuple[str, ...]] = {
    exp.Select: ("hint", "laterals", "pivots", "sample", "qualify", "windows", "distribute", "sort",
                 "cluster", "kind", "match", "into"),
    exp.Table: ("pivots", "sample", "hints", "when", "laterals", "only", "partition", "changes", "ordinality"),
    exp.Subquery: ("pivots", "sample", "laterals"),
    exp.Group: ("rollup", "cube", "grouping_sets", "totals"),
    exp.Join: ("method", "global_", "hint", "match_condition"),
    exp.Window: ("first", "alias"),
    exp.With: ("recursive",),
    exp.Lag: ("default", "ignore_nulls"),
    exp.Lead: ("default", "ignore_nulls"),
    exp.Union: ("by_name", "side", "kind", "on"),
    exp.Star: ("replace", "rename", "except_"),
    exp.In: ("unnest", "field"),
    exp.Like: ("escape",),
}  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What queries may name: ``known`` tables and views of the lake at ``root``, in lower case.

    ``stored`` gives the name under which a version of a table is registered; None for the latest.
    """

    known: Collection[str]
    root: str
    stored: Callable[[str, int | None], str]


@dataclass(frozen=True)
class Translated:
    """``text`` is DuckDB's; ``tables`` are the names of the lake that it reads, and ``columns`` what Spark calls the
    answer's columns, None where that is the answer's own name.

    ``united`` are the two sides of each UNION and the like, as queries: their columns must have the same types, since
    the two engines find common ones by other rules.
    """

    text: str
    tables: frozenset[str]
    columns: list[str | None] = field(default_factory=list)
    united: list[tuple[str, str]] = field(default_factory=list)


def translate(query: str, names: Names, values: Mapping[str, object] | None = None) -> Translated:
    """A query that selects, in DuckDB's SQL.

    ``values`` take the places of ``:name`` in it. NotUnderstoodError where it is not known that the answer is Spark's,
    UnknownTableError for a table that the lake does not have.
    """
    if "\\" in query:
        raise NotUnderstoodError("a backslash")
    word = query.lstrip("( \t\r\n").partition(" ")[0].split("\n")[0].upper()
    if word not in ("SELECT", "WITH"):
        raise NotUnderstoodError(f"{word or 'nothing'} is no query that selects")
    try:
        statements = [s for s in sqlglot.parse(query, read="spark") if s is not None]
    except (SqlglotError, RecursionError) as exc:
        raise NotUnderstoodError(_first_line(exc)) from exc
    if len(statements) != 1:
        raise NotUnderstoodError(f"{len(statements)} statements")
    (tree,) = statements
    if not isinstance(tree, (exp.Select, exp.Union, exp.Except, exp.Intersect)):
        raise NotUnderstoodError("no query that selects")
    if max((node.depth for node in tree.walk()), default=0) > _DEPTH:
        raise NotUnderstoodError(f"more than {_DEPTH} levels of brackets and operators")
    _check_growth(tree)
    columns = [_spark_name(e) for e in tree.selects]
    tables = _resolve(tree, names)
    _put_in(tree, values or {})
    for node in list(tree.find_all(exp.Select)):
        _order_by_what_is_selected(node)
        _refuse_unsure_names(node)
    tree = _rewritten(tree)
    try:
        return Translated(tree.sql(dialect="duckdb"), tables, columns, _united(tree))
    except SqlglotError as exc:
        raise NotUnderstoodError(_first_line(exc)) from exc


def _check_growth(tree: exp.Expr) -> None:
    """Refuse what macros in macros would blow up: each writes its arguments several times."""
    for node in tree.find_all(exp.Column, exp.Literal):
        copies = 1
        around = node.parent
        while around is not None:
            copies *= _COPIES.get(type(around), 2 if _is_top(around) else 1)
            around = around.parent
        if copies > _MOST_COPIES:
            raise NotUnderstoodError("operators and functions nested this deep")


def _is_top(node: exp.Expr) -> bool:
    """Whether a sum, difference or product is part of no other."""
    around = node.parent
    while isinstance(around, (exp.Paren, exp.Neg)):
        around = around.parent
    return isinstance(node, _ARITHMETIC) and not isinstance(around, _ARITHMETIC)


def _first_line(exc: BaseException) -> str:
    # sqlglot underlines with escape sequences of terminals.
    return re.sub(r"\x1b\[\d*m", "", str(exc)).split("\n")[0].strip()


def _spark_name(selected: exp.Expr) -> str | None:
    """What Spark calls an expression without an alias; None where that is plain, or several columns."""
    if isinstance(selected, exp.Column) and not selected.is_star:
        # As the query spells it, not the table.
        return selected.name
    if isinstance(selected, (exp.Alias, exp.Column, exp.Star, exp.Aliases, exp.Subquery, exp.Dot)):
        return None
    if isinstance(selected, (exp.Explode, exp.Posexplode)):
        return "col" if type(selected) is exp.Explode else None
    if isinstance(selected, exp.Count) and isinstance(selected.this, exp.Star):
        return "count(1)"
    return selected.sql(dialect="spark", normalize_functions="lower")


def _resolve(tree: exp.Expr, names: Names) -> frozenset[str]:
    """The tables of the lake that a query reads, all of whose names are looked up; versions get names of their own."""
    defined = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    found = set()
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            raise NotUnderstoodError(f"the table {table.sql(dialect='spark')}")
        name, version = table.name.lower(), table.args.get("version")
        if table.catalog or (table.db and table.db.lower() != "delta"):
            raise NotUnderstoodError(f"a table of another catalog, {table.sql(dialect='spark')}")
        if table.db:
            name = _by_path(table, names)
            at = None if version is None else _version(version)
            table.set("version", None)
            table.set("db", None)
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(name)))
            table.set("this", exp.to_identifier(names.stored(name, at), quoted=True))
        elif version is not None:
            raise NotUnderstoodError(f"VERSION AS OF for a name: write delta.`{names.root}/{name}` VERSION AS OF ...")
        elif name in defined:
            if name in names.known:
                raise NotUnderstoodError(f"WITH {name}: the lake has a table of that name")
            continue
        elif name not in names.known:
            raise UnknownTableError(table.name)
        found.add(name)
    return frozenset(found)


def _by_path(table: exp.Table, names: Names) -> str:
    folder, _, name = table.name.rstrip("/").rpartition("/")
    if folder != names.root or name not in names.known:
        raise NotUnderstoodError(f"a table outside of the lake, {table.name}")
    return name


def _version(node: exp.Version) -> int:
    asked = node.expression
    if node.name.upper() != "VERSION" or not isinstance(asked, exp.Literal) or not str(asked.this).isdecimal():
        raise NotUnderstoodError(node.sql(dialect="spark"))
    return int(asked.this)


def _put_in(tree: exp.Expr, values: Mapping[str, object]) -> None:
    for place in list(tree.find_all(exp.Placeholder)):
        if place.name not in values:
            raise NotUnderstoodError(f"no value for :{place.name}")
        value = values[place.name]
        if value is not None and not isinstance(value, (str, bool, int)):
            raise NotUnderstoodError(f":{place.name} is a {type(value).__name__}")
        place.replace(exp.convert(value))


def _order_by_what_is_selected(select: exp.Select) -> None:
    """In an expression of ORDER BY, Spark takes a name for a selected column first, DuckDB for one of the tables."""
    order = select.args.get("order")
    if order is None:
        return
    selected = {e.alias.lower(): e.this for e in select.selects if isinstance(e, exp.Alias)}
    for item in order.expressions:
        if isinstance(item.this, exp.Column):
            continue
        for column in list(item.find_all(exp.Column)):
            given = selected.get(column.name.lower())
            if given is not None and not column.table and column.find_ancestor(exp.Select) is select:
                column.replace(exp.paren(given.copy()))


def _refuse_unsure_names(select: exp.Select) -> None:
    """In HAVING a name may be that of a selected column or one of the tables'."""
    having = select.args.get("having")
    if having is None:
        return
    selected = {e.alias.lower(): e.this for e in select.selects if isinstance(e, exp.Alias)}
    for column in having.find_all(exp.Column):
        given = selected.get(column.name.lower())
        if given is not None and not column.table and isinstance(given, exp.Column):
            raise NotUnderstoodError(f"{column.name} in HAVING, which is also selected under that name")


def _united(tree: exp.Expr) -> list[tuple[str, str]]:
    defined = tree.args.get("with_")
    found = []
    for node in tree.find_all(exp.SetOperation):
        sides = [side.copy() for side in (node.this, node.expression)]
        for side in sides:
            if defined is not None and side.args.get("with_") is None and isinstance(side, exp.Query):
                side.set("with_", defined.copy())
        found.append((sides[0].sql(dialect="duckdb"), sides[1].sql(dialect="duckdb")))
    return found


def _rewritten(tree: exp.Expr) -> exp.Expr:
    """The tree in DuckDB's words, from the leaves up; what is not known is refused."""
    for node in list(tree.walk(bfs=False))[::-1]:
        new = _node(node)
        if new is not node:
            if node is tree:
                tree = new
            node.replace(new)
    return tree


def _call(name: str, *arguments: exp.Expr | str) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=[a if isinstance(a, exp.Expr) else exp.Var(this=a) for a in arguments])


def _node(node: exp.Expr) -> exp.Expr:
    kind = type(node)
    for name in _UNKNOWN_ARGS.get(kind, ()):
        if node.args.get(name):
            raise NotUnderstoodError(f"{name.strip('_').upper()} in {kind.__name__}")
    rewrite = _REWRITES.get(kind)
    if rewrite is not None:
        return rewrite(node)
    if isinstance(node, _ARITHMETIC):
        return _reckoned(node) if _is_top(node) else node
    if kind in _SAME or kind in _PARTS:
        return node
    what = node.name if kind is exp.Anonymous else kind.__name__
    raise NotUnderstoodError(f"{what}()" if isinstance(node, exp.Func) else what)


def _is_decimal(node: exp.Expr) -> bool:
    inner = node.this if isinstance(node, (exp.Neg, exp.Paren)) else node
    return isinstance(inner, exp.Literal) and not inner.is_string and re.fullmatch(r"\d*\.\d*", inner.this) is not None


def _literal(node: exp.Expr) -> exp.Expr:
    """A decimal literal: Spark compares it with a FLOAT as doubles, and reckons with it in decimals."""
    if not _is_decimal(node):
        return node
    asking = node.parent
    while isinstance(asking, (exp.Neg, exp.Paren)):
        asking = asking.parent
    if isinstance(asking, _COMPARISONS):
        return exp.Cast(this=node.copy(), to=exp.DataType.build("DOUBLE"))
    if isinstance(asking, (*_ARITHMETIC, exp.Div, exp.TryCast, exp.Quantile)):
        return node
    raise NotUnderstoodError(f"the decimal {node.this} outside of comparisons: write {node.this}D")


def _operands(node: exp.Expr) -> list[exp.Expr]:
    """What is reckoned with, through all sums, differences and products in each other."""
    if isinstance(node, _ARITHMETIC):
        return [*_operands_of(node.this), *_operands_of(node.expression)]
    return [node]


def _operands_of(node: exp.Expr) -> list[exp.Expr]:
    inner = node
    while isinstance(inner, (exp.Paren, exp.Neg)):
        inner = inner.this
    return _operands(inner) if isinstance(inner, _ARITHMETIC) else [inner]


def _in_doubles(operands: list[exp.Expr]) -> None:
    """Beside a decimal literal only what is floating stays floating in Spark; the literals become doubles."""
    if not any(map(_is_decimal, operands)):
        return
    for operand in operands:
        if _is_decimal(operand):
            operand.replace(exp.Cast(this=operand.copy(), to=exp.DataType.build("DOUBLE")))
        else:
            operand.replace(_call("spark_is_floating", operand.copy()))


def _reckoned(node: exp.Expr) -> exp.Expr:
    _in_doubles(_operands(node))
    kinds = [_call("typeof", operand.copy()) for operand in _operands(node)]
    return _call("spark_numbers", exp.Array(expressions=kinds), exp.paren(node.copy()))


def _divide(node: exp.Expr) -> exp.Expr:
    _in_doubles([node.this, node.expression])
    return _call("spark_divide", node.this, node.expression)


def _remainder(node: exp.Expr) -> exp.Expr:
    if any(map(_is_decimal, (node.this, node.expression))):
        raise NotUnderstoodError("% of a decimal")
    return _call("spark_remainder", node.this, node.expression)


def _round(node: exp.Expr) -> exp.Expr:
    places = node.args.get("decimals")
    if places is not None and not (isinstance(places, exp.Literal) and str(places.this).isdecimal()):
        raise NotUnderstoodError("round() to places that are no number")
    n = int(places.this) if places is not None else 0
    if n > 15:
        raise NotUnderstoodError(f"round() to {n} places")
    # Of a FLOAT Spark rounds the double that it is.
    double = exp.TryCast(this=node.this.copy(), to=exp.DataType.build("DOUBLE"))
    text = exp.Cast(this=double, to=exp.DataType.build("VARCHAR"))
    rounded = exp.TryCast(this=text, to=exp.DataType.build(f"DECIMAL(38, {n})", dialect="duckdb"))
    return _call("spark_decimal", node.this, rounded)


def _cast(node: exp.Expr) -> exp.Expr:
    if node.args.get("safe"):
        raise NotUnderstoodError("try_cast()")
    to = node.args["to"].this
    if to in _WHOLE_TYPES:
        return exp.Cast(this=_call("spark_whole", node.this), to=exp.DataType.build(_WHOLE_TYPES[to], dialect="duckdb"))
    if to in (exp.DataType.Type.DOUBLE, exp.DataType.Type.FLOAT):
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return exp.Cast(this=node.this, to=node.args["to"])
        return exp.Cast(this=_call("spark_floating", node.this), to=node.args["to"])
    if to is exp.DataType.Type.TEXT:
        return _call("spark_text", node.this)
    raise NotUnderstoodError(f"a cast to {node.args['to'].sql(dialect='spark')}")


def _item(node: exp.Expr) -> exp.Expr:
    index = node.expressions[0] if len(node.expressions) == 1 else None
    if not isinstance(index, exp.Literal) or node.args.get("offset"):
        raise NotUnderstoodError("an index that is no literal")
    if index.is_string:
        # A key of a map; the writer counts indices from one, but leaves texts alone.
        return node
    return _call("spark_item", node.this, index)


def _split(node: exp.Expr) -> exp.Expr:
    pattern = node.expression
    if (
        node.args.get("limit")
        or not isinstance(pattern, exp.Literal)
        or not pattern.name
        or _PATTERN.search(pattern.name)
    ):
        raise NotUnderstoodError("split() by a regular expression")
    return _call("string_split", node.this, pattern)


def _joined(node: exp.Expr) -> exp.Expr:
    """NULL where one of the texts is."""
    parts = node.expressions if isinstance(node, exp.Concat) else [node.this, node.expression]
    texts = [p if _is_text(p) else _call("spark_text", p) for p in parts]
    joined = texts[0]
    for text in texts[1:]:
        joined = exp.DPipe(this=joined, expression=text)
    return exp.paren(joined)


def _joined_with(node: exp.Expr) -> exp.Expr:
    """Without those that are NULL."""
    mark, *parts = node.expressions
    return _call("concat_ws", mark, *(p if _is_text(p) else _call("spark_text", p) for p in parts))


def _is_text(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.is_string


def _gathered(node: exp.Expr) -> exp.Expr:
    """Arrays of what is not NULL, empty where there is none."""
    if isinstance(node.parent, (exp.Filter, exp.Window)):
        raise NotUnderstoodError("FILTER or OVER behind collect_list() and collect_set()")
    if isinstance(node.this, (exp.Order, exp.Distinct)):
        raise NotUnderstoodError("ORDER BY or DISTINCT in collect_list()")
    value = exp.Distinct(expressions=[node.this.copy()]) if isinstance(node, exp.ArrayUniqueAgg) else node.this.copy()
    there = exp.Where(this=exp.Not(this=exp.Is(this=node.this.copy(), expression=exp.Null())))
    return _call("coalesce", exp.Filter(this=_call("list", value), expression=there), exp.Array(expressions=[]))


def _sorted(node: exp.Expr) -> exp.Expr:
    if node.args.get("expression") or node.args.get("asc"):
        raise NotUnderstoodError("a sorting of arrays by something")
    first = isinstance(node.args.get("nulls_first"), exp.Boolean) and node.args["nulls_first"].this
    order = "NULLS FIRST" if first else "NULLS LAST"
    return _call("list_sort", node.this, exp.Literal.string("ASC"), exp.Literal.string(order))


def _percentile(node: exp.Expr) -> exp.Expr:
    share = exp.Literal.number("0.5") if isinstance(node, exp.Median) else node.args["quantile"]
    if not isinstance(share, exp.Literal):
        raise NotUnderstoodError("percentile() of shares that are no number")
    return _call("quantile_cont", _call("spark_floating", node.this), share)


def _by_extreme(node: exp.Expr) -> exp.Expr:
    if node.args.get("count"):
        raise NotUnderstoodError("several rows of max_by() or min_by()")
    name = "arg_max_null" if isinstance(node, exp.ArgMax) else "arg_min_null"
    return _call(name, node.this, node.expression)


def _row(node: exp.Expr) -> exp.Expr:
    """Where structs are compared, as by max_by and min_by, it is field by field, and NULL comes before all."""
    if isinstance(node.parent, (exp.ArgMax, exp.ArgMin)) and node is node.parent.expression:
        fields = []
        for item in node.expressions:
            there = exp.Not(this=exp.Is(this=item.expression.copy(), expression=exp.Null()))
            fields += [there, item.expression]
        return _call("row", *fields)
    if not isinstance(node.parent, (exp.Alias, exp.Select, exp.Lambda, exp.ArrayAgg)):
        raise NotUnderstoodError("struct() that is compared")
    return node


def _json(node: exp.Expr) -> exp.Expr:
    if node.args.get("options"):
        raise NotUnderstoodError("options of to_json()")
    return _call("spark_json", node.this)


def _unnested(node: exp.Expr) -> exp.Expr:
    if not isinstance(node.parent, (exp.Alias, exp.Select)) or node.expressions:
        raise NotUnderstoodError("explode() inside of an expression")
    return _call("unnest", node.this)


def _with_position(node: exp.Expr) -> exp.Expr:
    """`posexplode(array) AS (position, value)`: two columns, each with its alias."""
    exploded = node.this
    if (
        not isinstance(exploded, exp.Posexplode)
        or len(node.expressions) != 2
        or not isinstance(node.parent, exp.Select)
    ):
        raise NotUnderstoodError("several aliases of one expression")
    select, at = node.parent, node.index
    array, (position, value) = exploded.this, node.expressions
    places = _call("unnest", _call("range", _call("len", array.copy())))
    columns = list(select.expressions)
    columns.insert(int(at or 0), exp.alias_(exp.Cast(this=places, to=exp.DataType.build("INT")), position))
    select.set("expressions", columns)
    return exp.alias_(_call("unnest", array), value)


def _position(node: exp.Expr) -> exp.Expr:
    if not isinstance(node.parent, exp.Aliases):
        raise NotUnderstoodError("posexplode() without AS (position, value)")
    return node


def _alike(values: list[exp.Expr], chosen: exp.Expr) -> exp.Expr:
    """One of several values: they must be of one kind."""
    kinds = [_call("typeof", value.copy()) for value in values]
    return _call("spark_alike", exp.Array(expressions=kinds), chosen.copy())


def _chosen(node: exp.Expr) -> exp.Expr:
    return _alike([node.this, *node.expressions], node)


def _if(node: exp.Expr) -> exp.Expr:
    if isinstance(node.parent, exp.Case):
        return node
    yes, no = node.args["true"], node.args.get("false") or exp.Null()
    return _alike([yes, no], exp.Case(ifs=[exp.If(this=node.this.copy(), true=yes.copy())], default=no.copy()))


def _case(node: exp.Expr) -> exp.Expr:
    default = node.args.get("default")
    return _alike([i.args["true"] for i in node.args["ifs"]] + ([default] if default else []), node)


def _count(node: exp.Expr) -> exp.Expr:
    if (isinstance(node.this, exp.Distinct) and len(node.this.expressions) > 1) or node.expressions:
        raise NotUnderstoodError("count() of several columns")
    return node


def _count_if(node: exp.Expr) -> exp.Expr:
    """0, not NULL, of no rows."""
    one = exp.Literal.number(1)
    return exp.Count(this=exp.Case(ifs=[exp.If(this=node.this.copy(), true=one)]))


def _letters(node: exp.Expr) -> exp.Expr:
    return _call("lower" if isinstance(node, exp.Lower) else "upper", _call("spark_ascii", node.this))


def _like(node: exp.Expr) -> exp.Expr:
    if not _is_text(node.expression):
        raise NotUnderstoodError("LIKE with a pattern that is no literal")
    return node


def _substring(node: exp.Expr) -> exp.Expr:
    start = node.args.get("start")
    if not isinstance(start, exp.Literal) or int(start.this) < 1:
        raise NotUnderstoodError("substring() from a place that is no number from 1 on")
    return node


def _join(node: exp.Expr) -> exp.Expr:
    if node.args.get("using"):
        select = node.find_ancestor(exp.Select)
        if select is None or any(s.is_star for s in select.selects):
            raise NotUnderstoodError("SELECT * with USING")
    if not isinstance(node.this, (exp.Table, exp.Subquery)):
        raise NotUnderstoodError("a join with something else than a table or a query")
    return node


def _whole_part(node: exp.Expr) -> exp.Expr:
    if node.args.get("decimals") or node.args.get("to"):
        raise NotUnderstoodError("floor() and ceil() to places")
    name = "floor" if isinstance(node, exp.Floor) else "ceil"
    return exp.Cast(this=_call(name, _call("spark_floating", node.this)), to=exp.DataType.build("BIGINT"))


def _array_text(node: exp.Expr) -> exp.Expr:
    if node.args.get("null"):
        raise NotUnderstoodError("array_join() with a text for NULL")
    return _call("array_to_string", node.this, node.expression)


#: Parts of nodes that are rewritten as a whole.
_PARTS: frozenset[type[exp.Expr]] = frozenset({exp.DataType, exp.DataTypeParam, exp.PropertyEQ})

_REWRITES: Mapping[type[exp.Expr], Callable[[exp.Expr], exp.Expr]] = {
    exp.Literal: _literal, exp.Div: _divide, exp.Mod: _remainder, exp.Round: _round, exp.TryCast: _cast,
    exp.Cast: _cast,
    exp.Bracket: _item, exp.RegexpSplit: _split, exp.Concat: _joined, exp.DPipe: _joined, exp.ConcatWs: _joined_with,
    exp.ArrayAgg: _gathered, exp.ArrayUniqueAgg: _gathered, exp.ArraySort: _sorted,
    exp.Quantile: _percentile, exp.Median: _percentile, exp.ArgMax: _by_extreme, exp.ArgMin: _by_extreme,
    exp.Struct: _row, exp.JSONFormat: _json, exp.Explode: _unnested, exp.Aliases: _with_position,
    exp.Posexplode: _position, exp.Coalesce: _chosen, exp.If: _if, exp.Case: _case, exp.Count: _count,
    exp.CountIf: _count_if, exp.Lower: _letters, exp.Upper: _letters,
    exp.Like: _like,
    exp.Substring: _substring, exp.Join: _join, exp.Floor: _whole_part, exp.Ceil: _whole_part,
    exp.ArrayToString: _array_text,
}  # fmt: skip

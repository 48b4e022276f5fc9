"""Spark's meaning of operations that DuckDB has under the same name with another one, as DuckDB's macros.

Macros are put in where they are called, and ``typeof`` is known when a query is planned. So of a CASE over it one
branch stays in the plan; where that is an error that `REFUSED` marks, the first row that is made ends the query.
"""

from __future__ import annotations

#: How the message of an error begins that says: only Spark answers this as Spark does.
REFUSED = "spark-only: "

_WHOLE = "('TINYINT', 'SMALLINT', 'INTEGER', 'BIGINT', 'HUGEINT', 'BOOLEAN')"
_FLOATING = "('FLOAT', 'DOUBLE')"
_SHORT = "('VARCHAR[]', 'INTEGER[]', 'BIGINT[]', 'MAP(VARCHAR, VARCHAR)')"


def _refused(what: str) -> str:
    return f"error('{REFUSED}' || {what})"


#: The text of a number as Java writes it, from DuckDB's, which has the same digits.
_JAVA_TEXT = """
    CASE WHEN t IS NULL THEN NULL
         WHEN t = 'nan' THEN 'NaN'
         WHEN t = 'inf' THEN 'Infinity'
         WHEN t = '-inf' THEN '-Infinity'
         WHEN abs(CAST(t AS DOUBLE)) = 0 OR (abs(CAST(t AS DOUBLE)) >= 0.001 AND abs(CAST(t AS DOUBLE)) < 10000000)
         THEN t
         ELSE CASE WHEN starts_with(t, '-') THEN '-' ELSE '' END || spark_exponent_text(ltrim(t, '-'))
    END
"""
_EXPONENT_TEXT = """
    CASE WHEN contains(t, 'e')
         THEN CASE WHEN contains(t, '.') THEN split_part(t, 'e', 1) ELSE split_part(t, 'e', 1) || '.0' END
              || 'E' || CAST(CAST(split_part(t, 'e', 2) AS INTEGER) AS VARCHAR)
         WHEN CAST(t AS DOUBLE) >= 1
         THEN left(t, 1) || '.'
              || coalesce(nullif(rtrim(substr(split_part(t, '.', 1), 2) || split_part(t, '.', 2), '0'), ''), '0')
              || 'E' || CAST(length(split_part(t, '.', 1)) - 1 AS VARCHAR)
         ELSE left(ltrim(split_part(t, '.', 2), '0'), 1) || '.'
              || coalesce(nullif(substr(ltrim(split_part(t, '.', 2), '0'), 2), ''), '0')
              || 'E-' || CAST(length(split_part(t, '.', 2)) - length(ltrim(split_part(t, '.', 2), '0')) + 1 AS VARCHAR)
    END
"""

#: Each by its head. Those that others call come first.
MACROS = {
    "spark_exponent_text(t)": _EXPONENT_TEXT,
    "spark_double_text(t)": _JAVA_TEXT,
    "spark_text(x)": f"""
        CASE WHEN typeof(x) IN {_FLOATING} THEN spark_double_text(CAST(x AS VARCHAR))
             WHEN typeof(x) = 'VARCHAR' OR typeof(x) IN {_WHOLE} OR typeof(x) LIKE '%INTEGER_LITERAL%'
                  OR typeof(x) = '"NULL"'
             THEN CAST(x AS VARCHAR)
             ELSE {_refused("'the text of a ' || typeof(x)")} END
    """,
    # Half away from zero in decimals, as 0.285 shows: its double lies below it.
    "spark_decimal(x, rounded)": f"""
        CASE WHEN typeof(x) = 'FLOAT' THEN CAST(CAST(coalesce(CAST(rounded AS DOUBLE), x) AS FLOAT) AS DOUBLE)
             WHEN typeof(x) = 'DOUBLE' THEN coalesce(CAST(rounded AS DOUBLE), x)
             ELSE {_refused("'round of a ' || typeof(x)")} END
    """,
    "spark_divide(a, b)": """
        CASE WHEN b = 0 THEN error('[DIVIDE_BY_ZERO] division by zero: use nullif')
             ELSE CAST(a AS DOUBLE) / CAST(b AS DOUBLE) END
    """,
    "spark_remainder(a, b)": """
        CASE WHEN b = 0 THEN error('[DIVIDE_BY_ZERO] division by zero: use nullif') ELSE a % b END
    """,
    # Spark makes DOUBLE of a FLOAT and a whole number, DuckDB makes FLOAT. ``kinds`` are the types of what is reckoned.
    "spark_numbers(kinds, result)": f"""
        CASE WHEN list_contains(kinds, 'FLOAT') AND len(list_filter(kinds, lambda k: k NOT IN {_FLOATING})) > 0
             THEN {_refused("'arithmetic on a FLOAT and a whole number'")} ELSE result END
    """,
    # Of a double Spark takes the whole part, and DuckDB the nearest number.
    "spark_whole(x)": f"""
        CASE WHEN typeof(x) IN {_WHOLE} OR typeof(x) LIKE '%INTEGER_LITERAL%' THEN CAST(x AS BIGINT)
             WHEN typeof(x) IN {_FLOATING} THEN CAST(trunc(CAST(x AS DOUBLE)) AS BIGINT)
             WHEN typeof(x) = 'BOOLEAN' THEN CAST(x AS BIGINT)
             WHEN typeof(x) = 'VARCHAR'
             THEN CASE WHEN regexp_full_match(trim(CAST(x AS VARCHAR)), '[+-]?[0-9]+') OR x IS NULL
                       THEN CAST(trim(CAST(x AS VARCHAR)) AS BIGINT)
                       ELSE error('cannot be cast to a whole number: ' || CAST(x AS VARCHAR)) END
             ELSE {_refused("'a cast of ' || typeof(x)")} END
    """,
    "spark_floating(x)": f"""
        CASE WHEN typeof(x) IN {_WHOLE} OR typeof(x) IN {_FLOATING} OR typeof(x) IN ('VARCHAR', '"NULL"')
                  OR typeof(x) LIKE '%_LITERAL%' OR typeof(x) LIKE 'DECIMAL%'
             THEN CAST(x AS DOUBLE)
             ELSE {_refused("'a cast of ' || typeof(x)")} END
    """,
    "spark_is_floating(x)": f"""
        CASE WHEN typeof(x) IN {_FLOATING} THEN x ELSE {_refused("'decimal arithmetic'")} END
    """,
    "spark_item(items, place)": """
        CASE WHEN place >= len(items) THEN error('the array has no item ' || CAST(place AS VARCHAR))
             ELSE items[place + 1] END
    """,
    # Java's rules for letters beyond ASCII are others.
    "spark_ascii(x)": f"""
        CASE WHEN strlen(x) <> length(x) THEN {_refused("'lower() and upper() beyond ASCII'")} ELSE x END
    """,
    "spark_json(x)": f"""
        CASE WHEN typeof(x) IN {_SHORT} THEN CAST(to_json(x) AS VARCHAR) ELSE {_refused("'to_json of a ' || typeof(x)")}
        END
    """,
    # Texts are not made numbers, nor numbers texts, where one of several is chosen. ``kinds`` are their types.
    "spark_alike(kinds, chosen)": f"""
        CASE WHEN list_contains(kinds, 'VARCHAR')
                  AND len(list_filter(kinds, lambda k: k NOT IN ('VARCHAR', '"NULL"'))) > 0
             THEN {_refused("'a choice between texts and others'")}
             WHEN list_contains(kinds, 'FLOAT')
                  AND len(list_filter(kinds, lambda k: k NOT IN ('FLOAT', 'DOUBLE', '"NULL"'))) > 0
             THEN {_refused("'a choice between a FLOAT and others'")}
             ELSE chosen END
    """,
}

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a CHECK proves the bounds of a partition, so that ATTACH PARTITION reads no row.

The server asks ``PartConstraintImpliedByRelConstraint``: a comparison of the key with a constant implies one with a wider constant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, walk

_MIDNIGHT = re.compile(r"[ T]00:00(:00(\.0+)?)?(?P<zone>[+-]00(:?00)?)?$")
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
# (operator, value as PostgreSQL writes it)
Comparison = tuple[str, Any]


def proves(expressions: Sequence[Any], bound: Any, keys: Sequence[str] | None) -> bool | None:
    """:param expressions: those of the valid CHECKs of the table that becomes a partition.
    :param bound: the FOR VALUES of ATTACH PARTITION, no DEFAULT.
    :param keys: the columns of the partition key; None where neither the file nor a catalog tells them.
    :return: False where they surely do not; None where one is more than comparisons of columns with constants."""
    if bound.strategy == "h":
        called = {n.funcname[-1].sval for n in walk(tuple(expressions)) if isinstance(n, grammar().ast.FuncCall)}
        return "satisfies_hash_partition" in called
    found: dict[str, list[Comparison]] = {}
    # Each is asked: the comparisons of all of them count.
    compared = [_compared(expression, found) for expression in expressions]
    ends = (bound.listdatums, bound.lowerdatums, bound.upperdatums)
    if any(len(datums or ()) > 1 for datums in ends[1:]):
        datums = [datum for datums in ends for datum in datums or ()]
        return bool(expressions) and (_names_all(tuple(expressions), keys, datums) or None)
    names = [name for name in found if keys is None or list(keys) == [name]]
    if bound.strategy == "l":
        allowed = [_value(datum) for datum in bound.listdatums]
        proved = any(_among(found[name], allowed) for name in names)
    else:
        lower, upper = _value(bound.lowerdatums[0]), _value(bound.upperdatums[0])
        proved = any(_from(found[name], lower) and _below(found[name], upper) for name in names)
    return proved or (False if all(compared) else None)


def _names_all(expressions: tuple[Any, ...], keys: Sequence[str] | None, datums: Collection[Any]) -> bool:
    """:return: whether the columns of a key of several are all named, and all values of their bounds."""
    ast = grammar().ast
    items = list(walk(expressions))
    columns = {item.fields[-1].sval for item in items if isinstance(item, ast.ColumnRef)}
    values = [_value(item) for item in items if isinstance(item, ast.A_Const)]
    wanted = [_value(datum) for datum in datums]
    return set(keys or ()) <= columns and all(value in values for value in wanted if value is not None)


def _compared(node: Any, found: dict[str, list[Comparison]]) -> bool:
    """Collect the comparisons that hold for every row, by column. :return: whether there is nothing else."""
    g = grammar()
    ast = g.ast
    if isinstance(node, ast.BoolExpr) and node.boolop == g.enums.BoolExprType.AND_EXPR:
        compared = [_compared(argument, found) for argument in node.args]
        return all(compared)
    if isinstance(node, ast.NullTest):
        return True
    if not isinstance(node, ast.A_Expr):
        return False
    kind, left, right = node.kind.name, _bare(node.lexpr), node.rexpr
    sign = node.name[-1].sval
    if not isinstance(left, ast.ColumnRef):
        left, right, sign = _bare(right), left, _MIRRORED.get(sign, "")
    if not isinstance(left, ast.ColumnRef):
        return False
    comparisons = found.setdefault(left.fields[-1].sval, [])
    if kind == "AEXPR_OP" and sign in _MIRRORED:
        comparisons.append((sign, _value(right)))
    elif kind == "AEXPR_BETWEEN":
        comparisons += [(">=", _value(right[0])), ("<=", _value(right[1]))]
    elif kind == "AEXPR_IN" and sign == "=":
        comparisons.append(("in", [_value(item) for item in right]))
    elif kind == "AEXPR_OP_ANY" and sign == "=" and isinstance(_bare(right), ast.A_ArrayExpr):
        # As the catalog writes IN.
        comparisons.append(("in", [_value(item) for item in _bare(right).elements]))
    else:
        return False
    return all(value is not None for _, value in comparisons)


def _bare(node: Any) -> Any:
    while isinstance(node, grammar().ast.TypeCast):
        node = node.arg
    return node


def _value(node: Any) -> Any:
    """:return: a constant: a number, or a text with midnight left out; None for MINVALUE, MAXVALUE, NULL and what is no constant."""
    constant = getattr(_bare(node), "val", None)
    for name in ("ival", "fval", "sval"):
        value = getattr(constant, name, None)
        if value is not None:
            text = str(value)
            if re.fullmatch(r"[+-]?\d{1,30}(\.\d+)?", text):
                return float(text)
            return _MIDNIGHT.sub("", text)
    return None


def _ordered(smaller: Any, larger: Any, *, equal: bool) -> bool:
    """:return: whether one value is below another; of two texts only where both are dates, which sort as they are written."""
    if smaller == larger:
        return equal
    if isinstance(smaller, float) and isinstance(larger, float):
        return smaller < larger
    texts = [str(smaller), str(larger)]
    return all(re.match(r"\d{4}-\d\d-\d\d", text) for text in texts) and texts[0] < texts[1]


def _from(comparisons: list[Comparison], lower: Any) -> bool:
    return lower is None or any(
        value is not None and sign in (">", ">=", "=") and _ordered(lower, value, equal=True)
        for sign, value in comparisons
    )


def _below(comparisons: list[Comparison], upper: Any) -> bool:
    return upper is None or any(
        value is not None and sign in ("<", "<=", "=") and _ordered(value, upper, equal=sign == "<")
        for sign, value in comparisons
    )


def _among(comparisons: list[Comparison], allowed: list[Any]) -> bool:
    for sign, value in comparisons:
        values = value if sign == "in" else [value]
        if sign in ("in", "=") and all(item is not None and item in allowed for item in values):
            return True
    return False

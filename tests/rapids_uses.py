"""Every name of RAPIDS that the code uses, found in its syntax trees: with how many arguments, and which keywords.

An array module goes by the name ``xp`` in all kernels, so `xp.where(...)` is a use of `cupy.where`. Names that are
assigned from such expressions are followed through a function: arrays (`cupy.ndarray()`, with their methods) and
estimators (`cuml.PCA()`). Arrays that come as a function's arguments are not: `strict_arrays` sees their uses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cupy", "cupyx", "cuml", "cudf", "rmm", "pylibraft", "spark_rapids_ml")
ARRAY = "cupy.ndarray()"
#: What calls give whose results are looked at further; other functions of cupy itself give arrays.
RESULTS = {
    "cupy.get_default_memory_pool()": "cupy.cuda.MemoryPool()",
    "cupy.asnumpy()": "",
    "cupy.cuda.Device()": "cupy.cuda.Device()",
}
#: Methods of devices that give arrays (`backend.device`).
_PUTS = ("put", "there")

Env = dict[str, frozenset[str]]
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Use:
    """One use: ``name`` as `cupy.where`, `cuml.PCA().fit`; ``call`` has its positional arguments and its keywords."""

    name: str
    call: tuple[int, tuple[str, ...]] | None
    place: str


def code_files() -> list[Path]:
    """What runs on a GPU: the library, jobs, and benchmarks."""
    return sorted(path for folder in ("lib/motorpool", "jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def uses(files: Iterable[Path] | None = None) -> list[Use]:
    """The uses in these files, by default in all of the code."""
    found: list[Use] = []
    for path in code_files() if files is None else files:
        found.extend(uses_in(path.read_text(encoding="utf-8"), path.name))
    return found


def names() -> set[str]:
    """All names whose signatures are recorded: those of the code, and those that stand-ins let kernels use."""
    import strict_arrays

    arrays = {f"cupy.{name}" for name in strict_arrays.FUNCTIONS | strict_arrays.CONSTANTS}
    return {use.name for use in uses()} | arrays | {f"{ARRAY}.{name}" for name in strict_arrays.METHODS}


def uses_in(source: str, place: str) -> list[Use]:
    """The uses in one module's text."""
    finder = _Finder(place)
    finder.visit(ast.parse(source))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, place: str) -> None:
        self.place = place
        self.found: list[Use] = []
        self.env: Env = {}
        self.texts: dict[str, str] = {}

    # -- what an expression is ---------------------------------------------------------------------------

    def meaning(self, node: ast.AST) -> frozenset[str]:
        match node:
            case ast.Name(id="xp") | ast.Attribute(attr="xp"):
                return frozenset({"cupy"})
            case ast.Name(id=name):
                return self.env.get(name, _NOTHING)
            case ast.Attribute(value=value, attr=attr):
                return frozenset(_attribute(base, attr) for base in self.meaning(value))
            case ast.Call(func=func):
                return self._result(node, func)
            case ast.BinOp(left=left, right=right):
                return self._array(left, right)
            case ast.Compare(left=left, comparators=others):
                return self._array(left, *others)
            case ast.UnaryOp(operand=value) | ast.Subscript(value=value):
                return self._array(value)
            case ast.IfExp(body=body, orelse=other):
                return self.meaning(body) | self.meaning(other)
            case ast.NamedExpr(value=value):
                return self.meaning(value)
        return _NOTHING

    def _array(self, *nodes: ast.AST) -> frozenset[str]:
        return frozenset({ARRAY}) if any(ARRAY in self.meaning(node) for node in nodes) else _NOTHING

    def _result(self, node: ast.Call, func: ast.AST) -> frozenset[str]:
        match func:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if name in ("import_module", "load") and node.args:
                    return self._module(node.args[0])
                if name in _PUTS and isinstance(func, ast.Attribute):
                    return frozenset({ARRAY})
        return frozenset(result for base in self.meaning(func) if (result := _result_of(base)))

    def _module(self, argument: ast.AST) -> frozenset[str]:
        match argument:
            case ast.Constant(value=str(name)):
                pass
            case ast.Name(id=name):
                name = self.texts.get(name, "")
            case _:
                return _NOTHING
        return frozenset({name}) if name.split(".")[0] in PACKAGES else _NOTHING

    # -- uses --------------------------------------------------------------------------------------------

    def _add(self, node: ast.expr, call: ast.Call | None) -> None:
        place = f"{self.place}:{node.lineno}"
        for name in sorted(self.meaning(node)):
            if "." not in name or name.endswith("()"):
                continue
            given = None
            if call is not None:
                if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
                    raise ValueError(f"{place}: {name} takes arguments that cannot be read here")
                given = len(call.args), tuple(k.arg for k in call.keywords if k.arg)
            self.found.append(Use(name, given, place))

    def visit_Call(self, node: ast.Call) -> None:
        self._add(node.func, node)
        self.visit(_root(node.func))
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._add(node, None)
        self.visit(_root(node))

    # -- names -------------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] in PACKAGES:
                name = alias.name if alias.asname else alias.name.split(".")[0]
                self.env[alias.asname or name] = frozenset({name})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                self.env[alias.asname or alias.name] = frozenset({f"{node.module}.{alias.name}"})

    def _assign(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else [ast.Constant(None)] * len(target.elts)
            meanings = [self.meaning(v) for v in values]
            for one, v, meaning in zip(target.elts, values, meanings, strict=False):
                self._name(one, v, meaning)
        else:
            self._name(target, value, self.meaning(value))

    def _name(self, target: ast.AST, value: ast.AST, meaning: frozenset[str]) -> None:
        if isinstance(target, ast.Name):
            self.env[target.id] = meaning
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                self.texts[target.id] = value.value

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._assign(node.target, node.value)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        before, ends = dict(self.env), []
        for branch in (node.body, node.orelse):
            self.env = dict(before)
            for statement in branch:
                self.visit(statement)
            ends.append(self.env)
        self.env = {name: ends[0].get(name, _NOTHING) | ends[1].get(name, _NOTHING) for name in {*ends[0], *ends[1]}}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, texts = dict(self.env), dict(self.texts)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self.env.pop(argument.arg, None)
        for statement in node.body:
            self.visit(statement)
        self.env, self.texts = before, texts


def _attribute(base: str, attr: str) -> str:
    return ARRAY if f"{base}.{attr}" == f"{ARRAY}.T" else f"{base}.{attr}"


def _result_of(name: str) -> str:
    """What a call of ``name`` gives: an array, an instance, or nothing that is followed."""
    called = f"{name}()"
    if called in RESULTS:
        return RESULTS[called]
    owner, _, last = name.rpartition(".")
    if last == "fit":
        return owner
    if last[:1].isupper():
        return called
    return ARRAY if owner in ("cupy", ARRAY) else ""


def _root(node: ast.AST) -> ast.AST:
    """What a chain of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node

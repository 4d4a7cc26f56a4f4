"""Which functions of the library each side of a claim's comparison goes through, read from the syntax tree.

A claim is worth little if both sides call the same function. `comparisons` follows the variables of each `agree` and
`within_standard_errors` back through the notebook: assignments, loops, comprehensions, `append` and in-place
methods, functions and lambdas of the notebook (bound to their arguments), methods and properties of the library's objects.

What counts as a function of the library stands in tools/library_calls.py. A branch may go either way, and a function of the
notebook stands for all that its body meets. Not followed: what a gradient step did to parameters, library objects kept in the
attributes of other objects, library classes met only through `getattr` or `exec`, and values that pass through files.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from tools.library_calls import LIBRARY, behind_member, counted_behind, made_by, resolve

SIDES = {"agree": ("actual", "expected"), "within_standard_errors": ("estimate", "expected")}
MUTATORS = {"append", "extend", "add", "update", "insert", "setdefault"}
Scope = dict[str, "Value"]


@dataclass(frozen=True)
class Value:
    """What is known of a variable: the counted functions behind it, the library objects it may be, notebook code it may run."""

    sources: frozenset[str] = frozenset()
    objects: tuple[Any, ...] = ()  # library modules, classes, functions themselves
    instances: tuple[type, ...] = ()  # counted classes that it may be an instance of
    code: tuple[tuple[ast.AST, int], ...] = ()  # functions, lambdas and classes of the notebook, with the id of their scope

    def __or__(self, other: "Value") -> "Value":
        joined = {
            name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name))))
            for name in ("objects", "instances", "code")
        }
        return Value(self.sources | other.sources, **joined)


def union(values: Iterable[Value]) -> Value:
    return functools.reduce(Value.__or__, values, Value())


@dataclass(frozen=True)
class Comparison:
    """One comparison inside a claim, with the counted functions behind its two sides."""

    label: str
    line: int
    actual: frozenset[str]
    expected: frozenset[str]

    @property
    def shared(self) -> frozenset[str]:
        return self.actual & self.expected


def comparisons(cells: Iterable[str]) -> list[Comparison]:
    """Every comparison in the code cells of a notebook, in order; ValueError for one outside a claim with a literal label."""
    text = "\n".join(line if not line.lstrip().startswith(("%", "!")) else "" for cell in cells for line in cell.splitlines())
    tracer = _Tracer()
    tracer.block(ast.parse(text).body, {})
    return tracer.found


class _Tracer:
    """Walks statements in order; a scope maps names to what is known of them."""

    def __init__(self) -> None:
        self.found: list[Comparison] = []
        self.label: str | None = None
        self.scopes: dict[int, Scope] = {}
        self.running: list[ast.AST] = []
        self.known: dict[Any, Value] = {}  # calls already followed

    # statements

    def block(self, body: Iterable[ast.stmt], scope: Scope) -> Value:
        """Run the statements; returns all that any expression in them met, a bound on what a function made of them returns."""
        return union([self.statement(node, scope) for node in body])

    def statement(self, node: ast.stmt, scope: Scope) -> Value:
        match node:
            case ast.Import() | ast.ImportFrom():
                return self._import(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.scopes[id(scope)] = scope
                scope[node.name] = union(self.value(d, scope) for d in node.decorator_list) | Value(code=((node, id(scope)),))
                return Value()
            case ast.Assign(targets=targets, value=value):
                return union([self._bind(target, value, scope) for target in targets])
            case ast.AnnAssign(target=target, value=value) if value is not None:
                return self._bind(target, value, scope)
            case ast.AugAssign(target=target, value=value):
                seen = self.value(value, scope)
                self._store(target, seen, scope, keep=True)
                return seen
            case ast.For(target=target, iter=value, body=body, orelse=orelse):
                seen = self.value(value, scope)
                self._store(target, seen, scope)
                return seen | self._either([body, body], scope) | self.block(orelse, scope)
            case ast.While(test=test, body=body, orelse=orelse):
                return self.value(test, scope) | self._either([body, body], scope) | self.block(orelse, scope)
            case ast.If(test=test, body=body, orelse=orelse):
                return self.value(test, scope) | self._either([body, orelse], scope)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                seen = self._either([body, *(handler.body for handler in handlers), orelse], scope)
                return seen | self.block(final, scope)
            case ast.With(items=items, body=body):
                return self._with(items, body, scope)
        return union([self.value(child, scope) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)])

    def _either(self, bodies: list[list[ast.stmt]], scope: Scope) -> Value:
        """Each body may or may not run: what a name was before stays possible."""
        seen = []
        for body in bodies:
            before = dict(scope)
            seen.append(self.block(body, scope))
            for name, value in before.items():
                scope[name] = scope[name] | value
        return union(seen)

    def _with(self, items: list[ast.withitem], body: list[ast.stmt], scope: Scope) -> Value:
        outer, seen = self.label, Value()
        for item in items:
            call = item.context_expr
            if isinstance(call, ast.Call) and _last_name(call.func) == "claim":
                self.label = _literal(call.args[0]) if call.args else None
            seen |= self.value(call, scope)
            if item.optional_vars is not None:
                self._store(item.optional_vars, seen, scope)
        seen |= self.block(body, scope)
        self.label = outer
        return seen

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> Value:
        for alias in node.names:
            path = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            if path.split(".")[0] != LIBRARY:
                scope[alias.asname or alias.name.split(".")[0]] = Value()
            elif isinstance(node, ast.Import) and not alias.asname:
                importlib.import_module(path)
                scope[LIBRARY] = Value(objects=(importlib.import_module(LIBRARY),))
            else:
                scope[alias.asname or alias.name] = Value(objects=(resolve(path),))
        return Value()

    def _bind(self, target: ast.expr, value: ast.expr, scope: Scope) -> Value:
        pair = (target, value)
        if all(isinstance(side, (ast.Tuple, ast.List)) for side in pair) and len(target.elts) == len(value.elts):  # type: ignore[attr-defined]
            seen = [self.value(element, scope) for element in value.elts]  # type: ignore[attr-defined]
            for element, known in zip(target.elts, seen, strict=True):  # type: ignore[attr-defined]
                self._store(element, known, scope)
            return union(seen)
        known = self.value(value, scope)
        self._store(target, known, scope)
        return known

    def _store(self, target: ast.expr, value: Value, scope: Scope, *, keep: bool = False) -> None:
        """Bind a name; writing to a part of an object (x[i], x.y) adds to what the object is made from."""
        match target:
            case ast.Name(id=name):
                scope[name] = value | scope[name] if keep and name in scope else value
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                for element in elements:
                    self._store(element, value, scope, keep=keep)
            case ast.Attribute(value=base) | ast.Subscript(value=base) | ast.Starred(value=base):
                self._store(base, value, scope, keep=not isinstance(target, ast.Starred))

    # expressions

    def value(self, node: ast.AST | None, scope: Scope) -> Value:
        match node:
            case None:
                return Value()
            case ast.Name(id=name):
                return scope.get(name, Value())
            case ast.Lambda():
                self.scopes[id(scope)] = scope
                return Value(code=((node, id(scope)),))
            case ast.NamedExpr(target=target, value=inner):
                return self._bind(target, inner, scope)
            case ast.Attribute(value=base, attr=attribute):
                return self._attribute(self.value(base, scope), attribute)
            case ast.Call():
                return self._call(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                inner_scope, seen = dict(scope), Value()
                for part in node.generators:
                    items = self.value(part.iter, inner_scope)
                    self._store(part.target, items, inner_scope)
                    seen |= items | union([self.value(test, inner_scope) for test in part.ifs])
                elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                return seen | union([self.value(element, inner_scope) for element in elements])
        return union([self.value(child, scope) for child in ast.iter_child_nodes(node)])

    def _attribute(self, base: Value, attribute: str) -> Value:
        """`losses.nll`, `model.log_marginal`, a property, or a part of some other value."""
        objects, sources = [], set(base.sources)
        for owner in base.objects:
            member = getattr(owner, attribute, None) if isinstance(owner, (ModuleType, type)) else None
            if isinstance(member, (ModuleType, type)) or inspect.isroutine(member):
                objects.append(member)
        for kind in base.instances:
            member = inspect.getattr_static(kind, attribute, None)
            if isinstance(member, (property, functools.cached_property)):
                sources |= behind_member(kind, attribute)
            elif inspect.isroutine(member):
                objects.append(member)
        return Value(frozenset(sources), tuple(objects), code=base.code)

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        self._mutation(node, scope)
        function = self.value(node.func, scope)
        positional = [self.value(argument, scope) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value, scope) for keyword in node.keywords}
        if isinstance(node.func, (ast.Name, ast.Attribute)) and _last_name(node.func) in SIDES:
            self._compare(node, positional, named)
        made = tuple(kind for item in function.objects if (kind := made_by(item)) is not None)
        result = union([self.flat(replace(function, code=())), *positional, *named.values()])
        result = Value(result.sources, result.objects, result.instances + made, result.code)
        return result | union([self.run(code, self.scopes[owner], positional, named) for code, owner in function.code])

    def _mutation(self, node: ast.Call, scope: Scope) -> None:
        """`values.append(x)` and `tensor.copy_(x)` put x's origin into the variable."""
        if isinstance(node.func, ast.Attribute) and (node.func.attr in MUTATORS or node.func.attr.endswith("_")):
            known = union([self.value(item, scope) for item in (*node.args, *(keyword.value for keyword in node.keywords))])
            self._store(node.func.value, known, scope, keep=True)

    def _compare(self, node: ast.Call, positional: list[Value], named: dict[str | None, Value]) -> None:
        names = SIDES[_last_name(node.func)]
        sides = [positional[i] if i < len(positional) else named.get(name, Value()) for i, name in enumerate(names)]
        if self.label is None:
            raise ValueError(
                f"line {node.lineno}: a comparison outside `with claim('eq-...', wrong='...')`: {ast.unparse(node)[:80]}"
            )
        self.found.append(Comparison(self.label, node.lineno, *(self.flat(side).sources for side in sides)))

    def run(self, code: ast.AST, scope: Scope, positional: list[Value], named: dict[str | None, Value]) -> Value:
        """What the body of a function, lambda or class of the notebook meets when called with these arguments."""
        if code in self.running:
            return Value()
        everything = frozenset(scope.items()), tuple(positional), frozenset(named.items()), frozenset(self.running), self.label
        if (code, everything) not in self.known:  # a call leaves nothing behind but what it met, so once is enough
            self.known[code, everything] = self._run(code, scope, positional, named)
        return self.known[code, everything]

    def _run(self, code: ast.AST, scope: Scope, positional: list[Value], named: dict[str | None, Value]) -> Value:
        self.running.append(code)
        try:
            inner = dict(scope)
            if isinstance(code, ast.ClassDef):
                seen = self.block(code.body, inner)
                return seen | union(
                    [self.run(member, inner, [], {}) for member in code.body if isinstance(member, ast.FunctionDef)]
                )
            parameters: ast.arguments = code.args  # type: ignore[attr-defined]
            for parameter in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs):
                inner[parameter.arg] = named.get(parameter.arg, Value())
            inner |= {
                parameter.arg: known
                for parameter, known in zip((*parameters.posonlyargs, *parameters.args), positional, strict=False)
            }
            for rest in (parameters.vararg, parameters.kwarg):
                if rest is not None:
                    inner[rest.arg] = union([*positional, *named.values()])
            defaults = union([self.value(default, scope) for default in (*parameters.defaults, *parameters.kw_defaults)])
            body = code.body  # type: ignore[attr-defined]
            return defaults | (self.value(body, inner) if isinstance(code, ast.Lambda) else self.block(body, inner))
        finally:
            self.running.pop()

    def flat(self, value: Value) -> Value:
        """The value with the counted functions named that its library functions and its notebook code go through."""
        sources = set(value.sources)
        for item in value.objects:
            sources |= counted_behind(item)
        for code, owner in value.code:
            inner = self.run(code, self.scopes[owner], [], {})
            sources |= inner.sources | {name for item in inner.objects for name in counted_behind(item)}
        return replace(value, sources=frozenset(sources))


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

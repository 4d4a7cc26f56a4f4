"""Which functions of the library a call goes through: the vocabulary of tools/claim_sides.py.

Counted are the public functions and methods of genimg_lib.losses, distributions and metrics, and those among them that a
library function calls in its turn. A whole module counts where it is handed on (`getattr(losses, ...)`). Draws of data
(`sample...`) do not count: both sides of a claim may look at the same points.
"""

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

LIBRARY = "genimg_lib"
COUNTED = tuple(f"{LIBRARY}.{name}" for name in ("losses", "distributions", "metrics"))


def made_by(item: Any) -> type | None:
    """The counted class that calling a library class, or a function annotated to return one, makes; None for others."""
    if isinstance(item, type):
        return item if is_counted(item) else None
    if not inspect.isfunction(item) or not item.__module__.startswith(LIBRARY):
        return None
    returned = item.__annotations__.get("return")
    returned = item.__globals__.get(returned) if isinstance(returned, str) else returned
    return returned if isinstance(returned, type) and is_counted(returned) else None


def resolve(path: str) -> Any:
    """The module, class or function of the library that a dotted path names."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def is_counted(item: Any) -> bool:
    module = getattr(item, "__module__", None) or ""
    return any(module == name or module.startswith(f"{name}.") for name in COUNTED)


@functools.cache
def counted_behind(item: Any) -> frozenset[str]:
    """The counted functions that a library object stands for: itself, and those that it calls in its turn."""
    if isinstance(item, ModuleType):
        return frozenset({item.__name__} if item.__name__.startswith(COUNTED) else ())
    if isinstance(item, (staticmethod, classmethod)):
        item = item.__func__
    if isinstance(item, type) or not callable(item) or not getattr(item, "__module__", "").startswith(LIBRARY):
        return frozenset()
    owner = _owner(item)
    return behind_member(owner, item.__name__) if owner else _behind_code(item, None)


def _owner(function: Callable[..., Any]) -> type | None:
    """The class in whose body a method stands."""
    path = function.__qualname__.split(".")
    found: Any = inspect.getmodule(function)
    for name in path[:-1]:
        found = getattr(found, name, None)
    return found if isinstance(found, type) else None


def behind_member(kind: type, name: str) -> frozenset[str]:
    member = inspect.getattr_static(kind, name)
    function = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
    return _behind_code(function, kind) if inspect.isfunction(function) else frozenset()


@functools.cache
def _behind_code(function: Callable[..., Any], kind: type | None) -> frozenset[str]:
    """The name of a library function if it is counted, and the counted ones that its text names, transitively."""
    name = function.__name__
    if name.startswith("sample"):
        return frozenset()
    found = {f"{function.__module__}.{function.__qualname__}"} if is_counted(function) and not name.startswith("_") else set()
    names = function.__globals__  # type: ignore[attr-defined]
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Name) and node.id != name:
            found |= counted_behind(names[node.id]) if inspect.isfunction(names.get(node.id)) else frozenset()
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "self" and kind is not None and node.attr != name and hasattr(kind, node.attr):
                found |= behind_member(kind, node.attr)
            elif isinstance(module := names.get(node.value.id), ModuleType) and inspect.isfunction(
                getattr(module, node.attr, None)
            ):
                found |= counted_behind(getattr(module, node.attr))
    return frozenset(found)

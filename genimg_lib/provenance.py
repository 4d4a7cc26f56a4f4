"""Where a number or a weight file comes from: one block of JSON. Needs no torch, so that the site can be built without it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("genimg_lib", "bench")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _file(module: str) -> Path | None:
    """The source of a module of `PACKAGES`, or None if it is elsewhere or does not exist."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _canonical(node: Any) -> str:
    """A syntax tree as text, without positions, comments, docstrings and empty fields: the same in every Python version."""
    if isinstance(node, list):
        return "[" + ",".join(map(_canonical, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    content = (f"{name}={_canonical(value)}" for name, value in fields.items() if value not in (None, []) and name != "ctx")
    return f"{type(node).__name__}({','.join(content)})"


def _imports(tree: ast.AST, module: str) -> dict[str, str]:
    """Local name -> dotted name, of every import statement wherever it stands; `from a import *` gives "*" -> "a"."""
    path = _file(module)
    package = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {alias.asname or alias.name: f"{base}.{alias.name}".removesuffix(".*") for alias in node.names}
    return names


def _gives(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module defines; an import defines none of its own."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(statement)  # an assignment, or what stands in an if, try or with
        if isinstance(node, ast.FunctionDef | ast.ClassDef) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }


def _uses(node: ast.AST) -> Iterator[str]:
    """Names and chains of attributes, dotted: `losses.bernoulli_nll`, `x`."""
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain, node = [node.attr, *chain], node.value
    if isinstance(node, ast.Name):
        yield ".".join([node.id, *chain])
        return
    for child in ast.iter_child_nodes(node):
        yield from _uses(child)


def _split(dotted: str) -> tuple[str, str | None]:
    """The longest module that a dotted name begins with, and the name in it that is meant; None means all of it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if _file(".".join(parts[:length])):
            return ".".join(parts[:length]), parts[length] if length < len(parts) else None
    return dotted, None


def _reached(modules: Iterable[str]) -> dict[str, list[ast.stmt]]:
    """All of the modules named, and what these reach in others of `PACKAGES`; the top packages' own files aside.

    Of a module that is imported only, the definitions used count, what these use in turn, and statements that define nothing
    (a call at its top). A module that is handed about as a value, or imported for its effect, counts whole.
    """
    bodies: dict[str, tuple[list[tuple[ast.stmt, set[str]]], dict[str, str]]] = {}  # statements with what they define; imports
    taken: dict[str, set[int]] = {}
    waiting: list[tuple[str, str | None]] = []
    seen: set[tuple[str, str | None]] = set()
    for module in modules:
        if _file(module) is None:
            raise ValueError(f"no module {module!r}: expected a module of {' or '.join(PACKAGES)}, such as genimg_lib.losses")
        waiting.append((module, None))
    while waiting:
        module, wanted = waiting.pop()
        if (module, wanted) in seen:
            continue
        seen.add((module, wanted))
        path = _file(module)
        if path is None or module in (*PACKAGES, __name__):  # this module describes results, it makes none
            continue
        if module not in bodies:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bodies[module] = [(statement, _gives(statement)) for statement in tree.body], _imports(tree, module)
            taken[module] = set()
            waiting.append((module.rpartition(".")[0], ""))  # importing a.b runs a/__init__.py as well
        body, imports = bodies[module]
        if wanted is None or wanted in imports or "*" in imports:
            used = {use.partition(".")[0] for statement, _ in body for use in _uses(statement)} if wanted is None else set()
            passed_on = {
                local for local in imports if local == "*" or local == wanted or (wanted is None and local not in used)
            }
            waiting += [_split(imports[local]) for local in sorted(passed_on)]
        for index, (statement, names) in enumerate(body):
            effect = not names and not isinstance(statement, ast.Import | ast.ImportFrom)
            if index in taken[module] or not (wanted is None or wanted in names or effect):
                continue
            taken[module].add(index)
            for use in _uses(statement):
                head, dot, rest = use.partition(".")
                waiting.append(_split(imports[head] + dot + rest) if head in imports else (module, head))
    return {module: [bodies[module][0][index][0] for index in sorted(indices)] for module, indices in taken.items()}


def source_hash(modules: Iterable[str]) -> str:
    """SHA-256 of the source of the named modules and of all definitions that they reach in this repository.

    Comments, docstrings and what else stands in an imported module do not count. Raises ValueError for a module that does not
    exist.
    """
    total = hashlib.sha256()
    for module, statements in sorted(_reached(modules).items()):
        total.update(f"{module}:{_canonical(ast.Module(statements, []))}\n".encode())
    return total.hexdigest()


def is_stale(block: Mapping[str, Any]) -> bool:
    """Whether the code that made a result has changed since, comments and docstrings aside."""
    try:
        return source_hash(block["modules"]) != block["source_sha256"]
    except ValueError:
        return True


def hardware() -> str:
    """The processor's model and the threads in use, and the GPU's model if torch has one; no host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = (line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next(named, model).strip()
    torch = sys.modules.get("torch")
    if torch is None:
        return model
    threads = torch.get_num_threads()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {threads} thread{'s' * (threads > 1)}{gpu}"


def collect(
    *,
    command: str,
    seed: int,
    data: Mapping[str, Any],
    steps: int,
    seconds: float,
    modules: Iterable[str],
    failed: str | None = None,
) -> dict[str, Any]:
    """The block that every result and weight file carries.

    command: as typed in the repository's root; data: its name, options and SHA-256; seconds: of wall time; modules: those the
    result depends on; failed: None, or why. Raises ValueError for an unknown module or an absolute path in the command.
    """
    if any(Path(word.partition("=")[2] or word).is_absolute() for word in command.split()):
        raise ValueError(f"the command names an absolute path: {command!r}; give it relative to the repository's root")
    modules = sorted(modules)
    return {
        "command": command,
        "seed": seed,
        "data": dict(data),
        "steps": steps,
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "genimg_lib")},
        },
        "modules": modules,
        "source_sha256": source_hash(modules),
        "failed": failed,
    }

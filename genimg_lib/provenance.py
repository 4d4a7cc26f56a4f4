"""Where a number or a weight file comes from: one block of JSON. Needs no torch, so that the site can be built without it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Mapping
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


def _imports(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Every name that the module's import statements, wherever they stand, could mean."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")[: -node.level + is_package or None] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _closure(modules: Iterable[str]) -> dict[str, ast.Module]:
    """The modules and all that they import from `PACKAGES`, with their syntax trees; the top packages' own files aside."""
    trees: dict[str, ast.Module] = {}
    waiting = list(modules)
    for module in waiting:
        if _file(module) is None:
            raise ValueError(f"no module {module!r}: expected a module of {' or '.join(PACKAGES)}, such as genimg_lib.losses")
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path is None or module in trees or module in PACKAGES:
            continue
        trees[module] = ast.parse(path.read_text(encoding="utf-8"))
        waiting += _imports(trees[module], module, path.name == "__init__.py")
        waiting.append(module.rpartition(".")[0])  # importing a.b runs a/__init__.py as well
    return trees


def source_hash(modules: Iterable[str]) -> str:
    """SHA-256 of the source of the named modules and all that they import from this repository; comments and docstrings aside.

    Raises ValueError for a module that does not exist.
    """
    total = hashlib.sha256()
    for module, tree in sorted(_closure(modules).items()):
        total.update(f"{module}:{_canonical(tree)}\n".encode())
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

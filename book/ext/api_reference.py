"""`{api-reference}`: the library's public functions and classes, read from the syntax tree, so torch is not needed.

One section per module, one entry per public name, with signature and docstring; `genimg_lib.losses.iwae_bound` can be
linked with {py:func}. Docstrings are plain text: paragraphs, and paragraphs with indented lines kept as they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.util.docutils import SphinxDirective

PACKAGE = "genimg_lib"
WIDTH = 88  # characters of a signature before it gets one parameter a line


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The documented functions and classes whose names do not start with an underscore."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


def split_arguments(text: str) -> list[str]:
    """Cuts a parameter list at the commas that stand outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """`def name(parameters) -> type`; for a class its name, bases and annotated fields or __init__ parameters."""
    if isinstance(node, ast.ClassDef):
        init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
        head, tail = f"class {node.name}", ""
        listed = split_arguments(ast.unparse(init.args))[1:] if init else fields
    else:
        head, listed = f"def {node.name}", split_arguments(ast.unparse(node.args))
        tail = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{head}({', '.join(listed)}){tail}"
    return line if len(line) <= WIDTH else "\n".join([f"{head}(", *(f"    {part}," for part in listed), f"){tail}"])


def inline(text: str) -> list[nodes.Node]:
    """Text with `code` between backquotes, single or double."""
    pieces = re.split(r"``(.+?)``|`(.+?)`", text)
    return [nodes.literal("", piece) if i % 3 else nodes.Text(piece) for i, piece in enumerate(pieces) if piece]


def docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> list[nodes.Node]:
    """The docstring's paragraphs; one that has indented lines becomes preformatted text."""
    result: list[nodes.Node] = []
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        if re.search(r"^\s", paragraph, re.MULTILINE):
            result.append(nodes.literal_block(paragraph, paragraph, language="text"))
        elif paragraph:
            result.append(nodes.paragraph("", "", *inline(" ".join(paragraph.split()))))
    return result


class ApiReference(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        paths = [path for path in sorted((root / PACKAGE).rglob("*.py")) if not path.stem.startswith("__main")]
        sections = [self.module(path, ".".join(path.relative_to(root).with_suffix("").parts)) for path in paths]
        return [section for section in sections if section is not None]

    def module(self, path: Path, name: str) -> nodes.section | None:
        """The section of one module; None for one without public names."""
        self.env.note_dependency(str(path))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        entries = list(public(tree.body))
        if not entries:
            return None
        name = name.removesuffix(".__init__")
        section = nodes.section("", nodes.title("", "", nodes.literal("", name)), ids=[f"api-{name.replace('.', '-')}"])
        section += docstring(tree)
        for node in entries:
            section += self.entry(node, f"{name}.{node.name}")
        return section

    def entry(self, node: ast.FunctionDef | ast.ClassDef, name: str) -> nodes.Node:
        """Signature and docstring of one name, and of a class's public methods."""
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        entry = nodes.container("", ids=[name], names=[name], classes=["api-entry"])
        entry += nodes.literal_block(name, signature(node), language="python", classes=["signature"])
        entry += docstring(node)
        cast(PythonDomain, self.env.get_domain("py")).note_object(name, kind, name, location=entry)
        if isinstance(node, ast.ClassDef):
            for method in public(node.body):
                entry += self.entry(method, f"{name}.{method.name}")
        return entry


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("api-reference", ApiReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

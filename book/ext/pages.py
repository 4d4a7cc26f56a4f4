"""What every page gets: a description for search engines, and a small helper that builds tables."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 160  # characters of a description that search engines show


def table(head: list[str], rows: list[list[str | nodes.Node]]) -> nodes.Element:
    """A docutils table in a box that scrolls sideways on a phone. A cell is text or a node."""

    def row(cells: list[str | nodes.Node]) -> nodes.row:
        contents = [nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells]
        return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", content)) for content in contents])

    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", row(list(head)))
    group += nodes.tbody("", *map(row, rows))
    return nodes.container("", nodes.table("", group, classes=["colwidths-auto"]), classes=["table-box"])


def describe(doctree: nodes.document, title: str, book: str) -> str:
    """The page's first paragraph of plain words, cut at a word; its title where there is none."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        in_section = isinstance(paragraph.parent, nodes.section)
        plain = not any(paragraph.findall(lambda node: isinstance(node, nodes.math | nodes.reference)))
        if in_section and plain and len(text) >= 40 and not paragraph["classes"]:
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + "…"
    return f"{title}, a page of {book}"


def add_description(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if doctree is not None:
        text = describe(doctree, app.env.titles[page].astext(), app.config.html_title)
        context["metatags"] += f'<meta name="description" content="{escape(text)}" />\n'


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", add_description)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

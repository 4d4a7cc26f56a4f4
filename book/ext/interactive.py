"""`{interactive} NAME`: a figure driven by `book/assets/interactive/NAME.js`, loaded on that page only.

The directive's text, in words what the reader would find, is the caption; it is all there is without JavaScript and in
the other builders. The script draws into the element `[data-figure=NAME]`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

SCRIPTS = Path(__file__).parents[1] / "assets" / "interactive"


class InteractiveFigure(nodes.General, nodes.Element):
    """Attributes name and alt; children: the caption."""


class Interactive(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if not (SCRIPTS / f"{name}.js").exists():
            raise self.error(f"interactive figure {name!r}: there is no book/assets/interactive/{name}.js")
        if not self.options.get("alt") or not self.content:
            raise self.error(f"interactive figure {name!r}: give :alt: and a paragraph that says what it shows")
        figure = InteractiveFigure(name=name, alt=self.options["alt"])
        self.state.nested_parse(self.content, self.content_offset, figure)
        return [figure]


def visit_html(self: HTML5Translator, node: InteractiveFigure) -> None:
    name, alt = escape(node["name"]), escape(node["alt"])
    stage = f'<div data-figure="{name}" role="group" aria-label="{alt}"></div>'
    self.body.append(f'<figure class="interactive">{stage}<figcaption>')


def depart_html(self: HTML5Translator, node: InteractiveFigure) -> None:
    self.body.append("</figcaption></figure>\n")


def keep_text(self: Any, node: InteractiveFigure) -> None:
    """Other builders show the caption alone."""


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if doctree is not None:
        for name in sorted({figure["name"] for figure in doctree.findall(InteractiveFigure)}):
            app.add_js_file(f"interactive/{name}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    text = (keep_text, keep_text)
    app.add_node(InteractiveFigure, html=(visit_html, depart_html), latex=text, epub=text, text=text)
    app.add_directive("interactive", Interactive)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

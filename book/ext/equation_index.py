"""`{equation-index}`: which equation is checked where, generated from the pages' labels and the notebooks' claims.

A warning, so a failed build, for an `eq-…` equation without a claim, a claim without an equation, or one made twice.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .pages import table

logger = logging.getLogger(__name__)
KINDS = {"agree": "exact", "within_standard_errors": "statistical"}


@dataclass(frozen=True)
class Claim:
    """One `with claim(label, wrong=…):` block and the comparisons inside it, counted by kind."""

    label: str
    wrong: str
    comparisons: dict[str, int]

    def summary(self) -> str:
        return ", ".join(f"{count} {KINDS[name]}" for name, count in self.comparisons.items() if count)


def called(node: ast.AST) -> str:
    """The name of the function that a call calls: `agree` for agree(…) and checks.agree(…); empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def claims_in(code: str) -> Iterator[Claim]:
    """The claims of a code cell, in order. Label and wrong formula are literal strings."""
    for block in ast.walk(ast.parse(code)):
        if not isinstance(block, ast.With):
            continue
        for item in block.items:
            if called(item.context_expr) == "claim":
                call = cast(ast.Call, item.context_expr)
                wrong = next(word.value for word in call.keywords if word.arg == "wrong")
                inside = [called(node) for node in ast.walk(block)]
                comparisons = {name: inside.count(name) for name in KINDS}
                yield Claim(ast.literal_eval(call.args[0]), ast.literal_eval(wrong), comparisons)


def notebook_claims(path: Path) -> list[Claim]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [found for source in sources if "claim(" in source for found in claims_in(source)]


def problems(labels: dict[str, str], claims: list[tuple[str, Claim]]) -> Iterator[tuple[str, str]]:
    """(docname, what is wrong) for equations {label: docname} against the claims (docname, claim) of all notebooks."""
    claimed = [found.label for _, found in claims]
    for label, docname in labels.items():
        if label.startswith("eq-") and label not in claimed:
            yield docname, f"equation {label} is not checked: add `with claim({label!r}, wrong=…)`, or label it def-…"
        elif not label.startswith(("eq-", "def-")):
            yield docname, f"equation label {label}: expected eq-… (a claim) or def-… (a definition)"
    for docname, found in claims:
        if labels.get(found.label) != docname:
            yield docname, f"claim({found.label!r}): this page has no equation of that label"
        if claimed.count(found.label) > 1:
            yield docname, f"claim({found.label!r}) is made {claimed.count(found.label)} times: expected once"


class IndexPlace(nodes.General, nodes.Element):
    """Stands where the table goes, until all pages have been read and equations have numbers."""


class EquationIndex(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [IndexPlace()]


def gather(env: BuildEnvironment) -> tuple[dict[str, str], list[tuple[str, Claim]]]:
    domain = cast(MathDomain, env.get_domain("math"))
    labels = {label: docname for label, (docname, _) in domain.equations.items()}
    notebooks = [(name, Path(env.doc2path(name))) for name in sorted(env.found_docs)]
    claims = [(name, found) for name, path in notebooks if path.suffix == ".ipynb" for found in notebook_claims(path)]
    return labels, claims


def warn(app: Sphinx, env: BuildEnvironment) -> None:
    for docname, problem in problems(*gather(env)):
        logger.warning(problem, location=docname, type="claims")


def link(app: Sphinx, fromdoc: str, label: str) -> nodes.Node:
    """A reference such as (3.2) to an equation."""
    domain = app.env.get_domain("math")
    reference = domain.resolve_xref(app.env, fromdoc, app.builder, "eq", label, cast(Any, nodes.inline()), nodes.inline())
    return reference or nodes.Text(label)


def chapter_rows(app: Sphinx, fromdoc: str, labels: list[str], claims: dict[str, Claim]) -> list[list[str | nodes.Node]]:
    rows: list[list[str | nodes.Node]] = []
    for label in labels:
        found = claims.get(label)
        checked = [found.wrong, found.summary()] if found else ["", "definition"]
        rows.append([link(app, fromdoc, label), nodes.literal("", label), *checked])
    return rows


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Puts a summary and a table for each chapter in place of IndexPlace."""
    for place in list(doctree.findall(IndexPlace)):
        labels, claims = gather(app.env)
        by_label = {found.label: found for _, found in claims}
        count = sum(sum(found.comparisons.values()) for found in by_label.values())
        content: list[nodes.Node] = [
            nodes.paragraph("", f"{len(by_label)} claims, {count} comparisons; {len(labels) - len(by_label)} definitions.")
        ]
        for chapter in sorted(set(labels.values())):
            title = app.env.titles[chapter]
            number = ".".join(map(str, title.get("secnumber") or []))
            content.append(nodes.rubric("", f"{number} {title.astext()}".strip()))
            rows = chapter_rows(app, docname, [name for name in labels if labels[name] == chapter], by_label)
            content.append(table(["equation", "label", "a wrong formula that the check rejects", "comparisons"], rows))
        place.replace_self(content)


def outdated(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The page with the index is built again whenever any page changes."""
    return [name for name in env.metadata if name.endswith("/equations")] if added | changed | removed else []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(IndexPlace)
    app.add_directive("equation-index", EquationIndex)
    app.connect("env-check-consistency", warn)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Chapters: their number comes from the file name, and what running them costs stands under the title.

`notebooks/vae/03_….ipynb` is chapter 3, with equations (3.1), … and figures 3.1, …, whichever chapters exist.
`book/running_times.json` (written by `make execute`) gives each chapter's line under the title, and the table that
`{running-times}` draws.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

from .pages import table
from .repository import colab_link

TIMES = "book/running_times.json"


def chapter_number(docname: str) -> int | None:
    """3 for notebooks/vae/03_evidence_lower_bound; None for a page that is no chapter."""
    match = re.match(r"(\d\d)_", PurePosixPath(docname).name)
    return int(match[1]) if match else None


def number_by_file_name(env: BuildEnvironment) -> None:
    """Replaces the running chapter number, wherever Sphinx keeps it, by the one in the file name."""
    for docname, numbers in env.toc_secnumbers.items():
        chapter = chapter_number(docname)
        if chapter is None:
            continue
        env.toc_secnumbers[docname] = {anchor: n and (chapter, *n[1:]) for anchor, n in numbers.items()}
        for node in [env.titles[docname], *env.tocs[docname].findall(nodes.reference)]:
            if node.get("secnumber"):
                node["secnumber"] = [chapter, *node["secnumber"][1:]]


def wrap_numbering(app: Sphinx, config: Config) -> None:
    """Runs number_by_file_name between the numbering of sections and that of figures, equations and exercises."""
    assign = TocTreeCollector.assign_figure_numbers

    def assign_figure_numbers(self: TocTreeCollector, env: BuildEnvironment) -> list[str]:
        number_by_file_name(env)
        return assign(self, env)

    TocTreeCollector.assign_figure_numbers = assign_figure_numbers  # type: ignore[method-assign]


def fold_setup(app: Sphinx, doctree: nodes.document) -> None:
    """The setup cell is folded: the same twelve lines open every chapter."""
    for cell in doctree.findall(nodes.container):
        if "tag_setup" in cell["classes"]:
            cell["hide_mode"] = "input"
            cell["prompt_show"] = cell["prompt_hide"] = "Setup: installs the library where it is missing"


def read_times(app: Sphinx) -> dict[str, dict[str, Any]]:
    path = Path(app.srcdir, TIMES)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def is_chapter(app: Sphinx, docname: str) -> bool:
    return docname.startswith("notebooks/") and app.env.doc2path(docname).endswith(".ipynb")


def depend_on_times(app: Sphinx, doctree: nodes.document) -> None:
    """A chapter is read again when the measured times change."""
    if is_chapter(app, app.env.docname):
        app.env.note_dependency(TIMES)


def add_header(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Under a chapter's title: measured time and memory, the notebook to download, Colab."""
    title = next(doctree.findall(nodes.title), None)
    if title is None or not is_chapter(app, docname):
        return
    line = nodes.paragraph(classes=["chapter-header"])
    measured = read_times(app).get(f"{docname}.ipynb")
    if measured:
        text = f"Runs in {duration(measured['seconds'])} and {measured['peak_mb']:.0f} MB on one CPU thread"
        if "gpu_seconds" in measured:
            text += f", in {duration(measured['gpu_seconds'])} on a GPU"
        line += nodes.inline("", text + ".", classes=["measured"])
    if app.builder.format == "html":
        uri = relative_uri(app.builder.get_target_uri(docname), f"_sources/{docname}.ipynb")
        line += [nodes.Text(" "), nodes.reference("", "Download the notebook", refuri=uri, classes=["download"])]
        colab = colab_link(app.config["book_repo_url"], docname)
        if colab:
            line += [nodes.Text(" "), nodes.reference("", "Open in Colab", refuri=colab, classes=["colab"])]
    title.parent.insert(title.parent.index(title) + 1, line)


class RunningTimes(SphinxDirective):
    """`{running-times}`: a row per measured notebook, then the total and the median."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(TIMES)
        times = read_times(self.env.app)
        if not times:
            return [nodes.paragraph("", "Nothing has been measured yet: run `make execute`.")]
        rows: list[list[str | nodes.Node]] = []
        for name, row in sorted(times.items()):
            gpu = duration(row["gpu_seconds"]) if "gpu_seconds" in row else "–"
            rows.append([name.removeprefix("notebooks/"), duration(row["seconds"]), f"{row['peak_mb']:.0f} MB", gpu])
        seconds = [row["seconds"] for row in times.values()]
        peak = max(row["peak_mb"] for row in times.values())
        rows.append([f"all {len(times)}", duration(sum(seconds)), f"{peak:.0f} MB at most", ""])
        rows.append(["median", duration(median(seconds)), "", ""])
        hardware = "; ".join(sorted({str(row["hardware"]) for row in times.values()}))
        note = nodes.paragraph("", f"Measured on: {hardware}.")
        return [table(["notebook", "CPU, one thread", "peak memory", "GPU"], rows), note]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("running-times", RunningTimes)
    app.connect("config-inited", wrap_numbering)
    app.connect("doctree-read", fold_setup)
    app.connect("doctree-read", depend_on_times)
    app.connect("doctree-resolved", add_header)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

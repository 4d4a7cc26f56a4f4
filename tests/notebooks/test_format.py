"""What CONTRIBUTING's section 'A notebook' settles, as far as a program can see it."""

import ast
import base64
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.execute import ROOT, RUNNING_TIMES, notebook_paths, source_hash
from tools.setup_cell import SETUP_CELL
from tools.stored_outputs import output_problems, tolerance_of
from tools.text_notebook import METADATA

TAGS = {"setup", "stochastic", "slide", "solution", "hide-input"}
LABEL_KINDS = ("ch-", "def-", "eq-", "fig-", "ex-", "sol-", "mistake-")
SECTIONS = ["## Common mistakes", "## Summary", "## Exercises", "## References"]
CLINIC = "notebooks/clinic.ipynb"
NOTEBOOKS = {path.relative_to(ROOT).as_posix(): nbformat.read(path, as_version=4) for path in notebook_paths()}
each = pytest.mark.parametrize("name", NOTEBOOKS)


def code_cells(name: str, *, setup: bool = False) -> list[NotebookNode]:
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code" and (setup or not has_tag(cell, "setup"))]


def markdown(name: str) -> str:
    return "\n\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def code_lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def pictures(cell: NotebookNode) -> list[bytes]:
    return [base64.b64decode(out.data["image/png"]) for out in cell.outputs if "image/png" in out.get("data", {})]


def labels(name: str) -> list[str]:
    """Every label that the text or the metadata defines."""
    text = re.sub(r"`[^`\n]*`", "", markdown(name))
    found = re.findall(r"^\(([\w-]+)\)=", text, re.M) + re.findall(r"^:(?:label|name):\s*(\S+)", text, re.M)
    found += re.findall(r"\$\$[ \t]*\(([\w-]+)\)", text)
    return found + [cell.metadata["mystnb"]["figure"]["name"] for cell in code_cells(name) if "mystnb" in cell.metadata]


def trees(name: str) -> Iterator[tuple[int, ast.Module]]:
    """The syntax tree of each code cell but the setup cell, with its place."""
    for place, cell in enumerate(code_cells(name)):
        yield place, ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!"))))


def test_there_are_chapters() -> None:
    assert len(NOTEBOOKS) >= 2


@each
def test_metadata_and_ids(name: str) -> None:
    notebook = NOTEBOOKS[name]
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA, "run `make execute`: it tidies the metadata"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    extra = {key for cell in notebook.cells for key in cell.metadata} - {"tags", "mystnb", "genimg"}
    assert not extra, f"cells carry unknown metadata: {extra}"


@each
def test_outputs_are_stored_and_clean(name: str) -> None:
    assert output_problems(NOTEBOOKS[name]) == []


@each
def test_begins_with_title_setup_imports_and_config(name: str) -> None:
    title, setup, *rest = NOTEBOOKS[name].cells
    assert re.match(r"\(ch-[\w-]+\)=\n# \S", title.source), "the first cell: (ch-…)= and then # Title"
    assert re.search(r"\bYou will be able to\b", title.source, re.I) and re.search(r"\bYou need\b", title.source, re.I)
    assert has_tag(setup, "setup") and setup.source.strip() == SETUP_CELL, "the second cell: `python tools/setup_cell.py`"
    assert not any(has_tag(cell, "setup") for cell in rest)
    first = "\n".join(cell.source for cell in rest[:3] if cell.cell_type == "code")
    assert "plots.use_style()" in first
    config = next(node for node in ast.parse(first).body if isinstance(node, ast.ClassDef) and node.name == "Config")
    assert any(ast.unparse(decorator) == "dataclass(frozen=True)" for decorator in config.decorator_list)
    fields = {ast.unparse(f.target): ast.unparse(f.value) for f in config.body if isinstance(f, ast.AnnAssign) and f.value}
    assert fields.get("scale") == "'quick'", "Config has scale: str = 'quick'"


@each
def test_sections(name: str) -> None:
    headings = [line for line in markdown(name).splitlines() if line.startswith("## ")]
    last = SECTIONS[1:] if name == CLINIC else SECTIONS  # the clinic is itself the place for mistakes
    assert headings[-len(last) :] == last
    assert "```{bibliography}" in markdown(name).split("## References")[1]


@each
def test_tags(name: str) -> None:
    unknown = {tag for cell in NOTEBOOKS[name].cells for tag in cell.metadata.get("tags", [])} - TAGS
    assert not unknown
    code = code_cells(name, setup=True)
    stochastic = sum(has_tag(cell, "stochastic") for cell in code)
    assert stochastic <= 0.1 * len(code), f"{stochastic} of {len(code)} code cells are stochastic; at most 10 % may be"
    for cell in code:
        tolerance_of(cell)  # raises if tag and metadata do not fit


@each
def test_figures(name: str) -> None:
    for cell in code_cells(name, setup=True):
        figure, image = (cell.metadata.get("mystnb", {}).get(key, {}) for key in ("figure", "image"))
        drawn = len(pictures(cell))
        where = f"{figure or cell.source[:80]!r}"
        assert drawn <= 1, f"{where}: a cell draws one figure, not {drawn}"
        assert bool(drawn) == bool(figure) == bool(image), f"{where}: a figure has caption, name and alt; other cells have none"
        if drawn:
            caption, alt = figure["caption"].strip(), image["alt"].strip()
            assert re.fullmatch(r"fig-[a-z0-9-]+", figure["name"]), where
            assert len(caption) >= 30 and len(alt) >= 60, f"{where}: say more (alt has {len(alt)} characters)"
            assert alt.lower() not in caption.lower() and caption.lower().rstrip(".") not in alt.lower(), (
                f"{where}: alt repeats"
            )
            assert "$" not in alt, f"{where}: a screen reader cannot speak maths in alt text"


@each
def test_labels(name: str) -> None:
    found = labels(name)
    assert len(set(found)) == len(found), f"defined twice: {sorted(label for label in found if found.count(label) > 1)}"
    assert [label for label in found if not label.startswith(LABEL_KINDS)] == []
    assert any(label.startswith("eq-") for label in found)
    assert not re.search(r"\\label\s*\{", markdown(name)), r"use $$ … $$ (eq-…), not \label"


def test_labels_are_unique_in_the_book() -> None:
    found = [label for name in NOTEBOOKS for label in labels(name)]
    assert len(set(found)) == len(found), f"defined twice: {sorted(label for label in found if found.count(label) > 1)}"


@each
def test_code_is_short(name: str) -> None:
    lengths = [code_lines(cell) for cell in code_cells(name)]
    assert statistics.median(lengths) <= 5, f"median of {statistics.median(lengths)} lines a code cell"
    assert max(lengths) <= 30, f"the longest cell has {max(lengths)} lines"


@each
def test_maths_is_plain_latex(name: str) -> None:
    assert not re.search(r"\\(newcommand|renewcommand|def|DeclareMathOperator)\b", markdown(name))
    macros = json.loads((ROOT / "book" / "macros.json").read_text())
    used = [macro for macro in macros if re.search(re.escape(macro) + r"(?![A-Za-z])", markdown(name))]
    assert used == [], "these macros are for the pages of book/: a notebook is also read where they do not exist"


@each
def test_exercises_have_solutions(name: str) -> None:
    text = markdown(name).split("## Exercises")[1]
    exercises = re.findall(r"```\{exercise\}[^\n]*\n:label:\s*(ex-[\w-]+)", text)
    solutions = re.findall(r"```\{solution-start\}\s*(ex-[\w-]+)\n:label:\s*(sol-[\w-]+)\n:class: dropdown", text)
    assert len(exercises) >= 5 and text.count("{exercise}") == len(exercises)
    assert [exercise for exercise, _ in solutions] == exercises, "one hidden solution for each, in order"
    assert all(solution == exercise.replace("ex-", "sol-", 1) for exercise, solution in solutions)
    inside = False
    for cell in NOTEBOOKS[name].cells:
        if cell.cell_type == "code":
            assert has_tag(cell, "solution") == inside, f"tag `solution` and place do not fit: {cell.source[:60]!r}"
        else:
            for mark in re.findall(r"\{solution-(start|end)\}", cell.source):
                assert inside == (mark == "end"), f"solution-{mark} out of turn in {cell.source[:60]!r}"
                inside = mark == "start"
    assert not inside


@each
def test_no_item_in_loops(name: str) -> None:
    """`.item()` in a loop waits for the device at every step: keep tensors, and look at them after it."""
    for place, tree in trees(name):
        for loop in (node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))):
            calls = {
                node.func.attr for node in ast.walk(loop) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            }
            assert "item" not in calls, f"code cell {place}: .item() in a loop"


@each
def test_no_branch_on_what_is_installed(name: str) -> None:
    for place, tree in trees(name):
        for node in ast.walk(tree):
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
            assert not re.search("ImportError|ModuleNotFoundError", caught), f"code cell {place} branches on what is installed"
            if isinstance(node, (ast.If, ast.IfExp, ast.While)):
                test = ast.unparse(node.test)
                assert not re.search(r"find_spec|exists\(|is_file\(|is_dir\(|sys\.modules|environ", test), (
                    f"code cell {place}: {test}"
                )


@each
def test_running_time_is_of_this_text(name: str) -> None:
    times = json.loads(RUNNING_TIMES.read_text())
    assert name in times, f"no measured time: run `make execute NB={name}`"
    entry = times[name]
    assert entry["source_hash"] == source_hash(NOTEBOOKS[name]), f"measured for an older text: run `make execute NB={name}`"
    assert entry["seconds"] <= 180 and entry["peak_mb"] <= 2000 and entry["threads"] == 1


def test_running_times_as_a_whole() -> None:
    times = json.loads(RUNNING_TIMES.read_text())
    assert set(times) == set(NOTEBOOKS)
    assert statistics.median(entry["seconds"] for entry in times.values()) <= 60


@each
def test_size(name: str) -> None:
    kilobytes = (ROOT / name).stat().st_size / 1000
    assert kilobytes <= 600, f"{kilobytes:.0f} KB stored; draw fewer or smaller figures"


@each
def test_is_in_the_table_of_contents(name: str) -> None:
    assert re.search(rf"file:\s*{re.escape(Path(name).with_suffix('').as_posix())}\s*$", (ROOT / "_toc.yml").read_text(), re.M)

"""The clinic: every section has its five parts, its check fails before the mend and passes after, and links find it."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.execute import ROOT, notebook_paths

CLINIC = ROOT / "notebooks" / "clinic.ipynb"
PARTS = ["As written", "Symptom", "The check", "Mend", "The same check"]
PART = re.compile(r"\*\*(" + "|".join(PARTS) + r")\b")
CELLS = nbformat.read(CLINIC, as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
VAE = """
    mistake-expected-log-q mistake-elbo-sign mistake-log-zero mistake-bound-minimised mistake-beta-balances
    mistake-exp-logvar mistake-batchnorm-z mistake-sigmoid-latents mistake-kl-from-decoder mistake-prior-noise-decoder
    mistake-decoder-shown-x mistake-sum-mean mistake-encoder-alone mistake-collapse-fight
"""
GAN = """
    mistake-min-max-swapped mistake-both-descend mistake-loss-difference mistake-g-loss-without-g mistake-mean-sigmoid
    mistake-fakes-labelled-real mistake-only-reals mistake-label-order mistake-loss-arguments mistake-sigmoid-twice
    mistake-log-one-minus-d mistake-many-sigmoids mistake-penalty-alpha mistake-until-convergence
    mistake-generator-fed-images mistake-graph-cut mistake-missing-detach mistake-wrong-network-frozen
    mistake-gradients-zipped mistake-optimiser-never-steps mistake-layers-rebuilt mistake-same-noise mistake-gamma-zero
    mistake-shapes-differ mistake-no-activations mistake-impossible-reshape mistake-dense-wrong-axis mistake-ranges-differ
    mistake-input-overwritten mistake-loop-batch-size
"""
RNN = "mistake-lstm-cures-explosion mistake-clip-after-step mistake-state-kept mistake-recurrent-recursive"


def headings(text: str) -> list[str]:
    """The labels that stand right above a third-level heading."""
    return re.findall(r"^\((mistake-[\w-]+)\)=\n### \S", text, re.M)


def links_to_clinic(path: Path) -> set[str]:
    """The anchors of the clinic that a notebook or page links to, from outside or, in the clinic itself, from inside."""
    text = path.read_text(encoding="utf-8")
    found = set(re.findall(r"clinic(?:\.ipynb|\.html|\.md)?#([\w-]+)", text))
    return found | (set(re.findall(r"\]\(#(mistake-[\w-]+)\)", text)) if path == CLINIC else set())


def sections(cells: list[NotebookNode]) -> dict[str, list[NotebookNode]]:
    """The cells of each mistake, from its heading to the next heading; what stands above the heading is cut off."""
    found: dict[str, list[NotebookNode]] = {}
    current: list[NotebookNode] | None = None
    for cell in cells:
        if cell.cell_type == "markdown":
            if match := re.search(r"^\((mistake-[\w-]+)\)=\n### ", cell.source, re.M):
                current = found[match.group(1)] = []
                cell = nbformat.v4.new_markdown_cell(cell.source[match.start() :])
            elif re.search(r"^## ", cell.source, re.M):
                current = None
        if current is not None:
            current.append(cell)
    return found


def part_cells(cells: list[NotebookNode]) -> list[tuple[str, list[NotebookNode]]]:
    """The parts of a section in order, each with its code cells."""
    parts: list[tuple[str, list[NotebookNode]]] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            parts += [(name, []) for name in PART.findall(cell.source)]
        elif parts:
            parts[-1][1].append(cell)
    return parts


def code_of(cell: NotebookNode) -> list[ast.stmt]:
    return ast.parse(cell.source).body if cell.cell_type == "code" else []


def called_checks(cells: list[NotebookNode], *, inside_caught: bool) -> set[str]:
    """The functions check_… that are called under `with caught():`, or outside of it, at the top level of a cell."""
    found: set[str] = set()
    for statement in (node for cell in cells for node in code_of(cell)):
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        caught = isinstance(statement, ast.With) and ast.unparse(statement.items[0].context_expr) == "caught()"
        calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        if caught == inside_caught:
            found |= {call.func.id for call in calls if call.func.id.startswith("check_")}  # type: ignore[attr-defined]
    return found


def printed(cells: list[NotebookNode]) -> str:
    return "".join(out.text for cell in cells for out in cell.outputs if out.output_type == "stream")


SECTIONS = sections(CELLS)
each = pytest.mark.parametrize("name", SECTIONS)


def test_all_mistakes_are_there_once() -> None:
    assert len(headings(TEXT)) == len(set(headings(TEXT)))
    assert set(f"{VAE} {GAN} {RNN}".split()) - set(headings(TEXT)) == set()
    assert list(SECTIONS) == headings(TEXT), "a cell holds one heading of a mistake at most"


def test_every_link_finds_its_section() -> None:
    pages = [*notebook_paths(), *sorted((ROOT / "book").glob("*.md"))]
    broken = {path.name: links_to_clinic(path) - set(headings(TEXT)) for path in pages}
    assert {name: links for name, links in broken.items() if links} == {}


def test_the_index_lists_every_section_once() -> None:
    index = TEXT.split("## What you see, and where to look")[1].split("\n## ")[0]
    rows = [line for line in index.splitlines() if line.startswith("|")][2:]
    assert all(re.search(r"\(#mistake-", row) for row in rows), "a symptom leads nowhere"
    assert sorted(re.findall(r"\(#(mistake-[\w-]+)\)", index)) == sorted(headings(TEXT))


@each
def test_five_parts_in_order_each_with_code(name: str) -> None:
    parts = part_cells(SECTIONS[name])
    assert [part for part, _ in parts] == PARTS
    assert [part for part, cells in parts if not cells] == []
    first = sum(bool(line.strip()) for line in parts[0][1][0].source.splitlines())
    assert first <= 18, f"a minimal reproduction has {first} lines"
    assert re.search(r"\d", printed(parts[1][1])), "the symptom is a number"


@each
def test_the_same_check_fails_and_then_passes(name: str) -> None:
    parts = dict(part_cells(SECTIONS[name]))
    before, after = parts["The check"], parts["The same check"]
    failing, passing = called_checks(before, inside_caught=True), called_checks(after, inside_caught=False)
    assert len(failing) == 1 and failing == passing
    assert not called_checks(after, inside_caught=True) and not called_checks(before, inside_caught=False)
    (check,) = failing
    assert any(f"def {check}(" in cell.source for cell in before), "the check is written where it is first needed"
    assert re.search(r"^caught: \S", printed(before), re.M) and "passes:" not in printed(before)
    assert re.search(r"^passes: \S", printed(after), re.M) and "caught:" not in printed(after)


def test_each_section_has_a_check_of_its_own() -> None:
    checks = [called_checks(dict(part_cells(cells))["The check"], inside_caught=True) for cells in SECTIONS.values()]
    assert len(set().union(*checks)) == len(SECTIONS)


def helper(name: str) -> dict:
    """The namespace of the cell that defines the helper."""
    (source,) = [cell.source for cell in CELLS if cell.cell_type == "code" and f"def {name}(" in cell.source]
    namespace: dict = {}
    exec("from contextlib import contextmanager\n" + source, namespace)
    return namespace


def test_caught_demands_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    caught = helper("caught")["caught"]
    with caught():
        raise AssertionError("1 is not 2")
    assert capsys.readouterr().out == "caught: 1 is not 2\n"
    with pytest.raises(RuntimeError, match="nothing was caught"), caught():
        pass
    with pytest.raises(ZeroDivisionError), caught():
        1 / 0  # noqa: B018


def section_text(*parts: str) -> list[NotebookNode]:
    new_text, new_code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [new_text("(mistake-x)=\n### X")]
    for part in parts:
        cells += [new_text(f"**{part}.** Text."), new_code("check_x()")]
    return [*cells, new_text("## Who did what"), new_code("later()")]


def test_a_missing_or_misplaced_part_is_noticed() -> None:
    whole = part_cells(sections(section_text(*PARTS))["mistake-x"])
    assert [part for part, _ in whole] == PARTS and all(len(cells) == 1 for _, cells in whole)
    for wrong in (PARTS[:-1], [*PARTS[1:], PARTS[0]]):
        assert [part for part, _ in part_cells(sections(section_text(*wrong))["mistake-x"])] != PARTS


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[one](../clinic.ipynb#mistake-exp-logvar) [two](../clinic.ipynb#mistake-exp-logvra)")
    assert links_to_clinic(page) - set(headings(TEXT)) == {"mistake-exp-logvra"}

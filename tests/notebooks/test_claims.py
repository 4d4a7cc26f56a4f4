"""Every labelled claim is checked in its chapter, by two independent routes, and its check can fail."""

import ast
import copy
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.claim_sides import comparisons
from tools.execute import ROOT, notebook_paths, run

NOTEBOOKS = {path.relative_to(ROOT).as_posix(): nbformat.read(path, as_version=4) for path in notebook_paths()}
each = pytest.mark.parametrize("name", NOTEBOOKS)

# Runs first in the kernel: claims go into a record instead of stopping their cell, so that all later ones are reached too.
RECORDER = """
import contextlib
import genimg_lib.checks as _checks
_record, _claim = [], _checks.claim
@contextlib.contextmanager
def _recorded(label, *, wrong):
    try:
        with _claim(label, wrong=wrong):
            yield
    except Exception as error:
        _record.append((label, type(error).__name__, str(error)))
    else:
        _record.append((label, "passed", ""))
_checks.claim = _recorded
"""
REPORT = "import json\nprint(json.dumps(_record))"


def code(name: str) -> list[str]:
    return [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def equation_labels(name: str) -> list[str]:
    """The labels of the displayed equations that claim something."""
    text = "\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")
    return re.findall(r"\$\$[ \t]*\((eq-[\w-]+)\)", text)


def claim_labels(name: str) -> list[str]:
    """The label of every `with claim(...)`, which has to be written out."""
    found = []
    for source in code(name):
        for node in ast.walk(ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!"))))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "claim":
                label, wrong = node.args[0], {keyword.arg: keyword.value for keyword in node.keywords}["wrong"]
                assert isinstance(label, ast.Constant) and isinstance(wrong, ast.Constant), ast.unparse(node)
                assert len(str(wrong.value)) >= 3, f"{label.value!r}: say which wrong formula the check rejects"
                found.append(str(label.value))
    return found


def recorded_claims(
    notebook: NotebookNode, folder: Path, *, first: str = "", **environment: str
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Run a copy of the notebook up to its last claim, `first` before it; its claims (label, outcome, message), and errors."""
    copied = copy.deepcopy(notebook)
    cells, new = [cell for cell in copied.cells if cell.cell_type == "code"], nbformat.v4.new_code_cell
    last = max(place for place, cell in enumerate(cells) if "claim(" in cell.source)
    copied.cells = [new(RECORDER + first), *cells[: last + 1], new(REPORT)]
    run(copied, folder, environment=environment, allow_errors=True)
    outputs = [output for cell in copied.cells for output in cell.outputs]
    claims = [tuple(entry) for entry in json.loads(copied.cells[-1].outputs[0].text)]
    return claims, [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]


@each
def test_every_claim_is_checked_and_every_check_claims(name: str) -> None:
    equations, claims = equation_labels(name), claim_labels(name)
    assert set(equations) - set(claims) == set(), "these equations are claimed and not checked"
    assert set(claims) - set(equations) == set(), "these checks belong to no labelled equation of the chapter"
    assert len(set(claims)) == len(claims), "an equation is checked in one place"


@each
def test_the_two_sides_share_no_function(name: str) -> None:
    found = comparisons(code(name))
    assert {comparison.label for comparison in found} == set(equation_labels(name))
    assert [(comparison.label, sorted(comparison.shared)) for comparison in found if comparison.shared] == []


@each
@pytest.mark.timeout(600)
def test_every_claim_notices_a_perturbation(name: str) -> None:
    """With CHECKS_PERTURB=1 one side of each comparison is moved: all claims fail, and none for another reason."""
    claims, errors = recorded_claims(NOTEBOOKS[name], (ROOT / name).parent, CHECKS_PERTURB="1")
    assert errors == []
    assert [label for label, _, _ in claims] == claim_labels(name)
    not_noticed = [
        claim for claim in claims if claim[1] != "ClaimFailed" or not claim[2].startswith(f"claim {claim[0]} failed")
    ]
    assert not_noticed == []


TINY = """
from genimg_lib.checks import agree, claim
with claim("eq-one", wrong="twice as much"):
    agree(1.0 + 1.0, 2.0, not_=4.0)
print("reached")
"""


def tiny(*sources: str) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_the_record_tells_the_outcomes_apart(tmp_path: Path) -> None:
    blunt = TINY.replace("eq-one", "eq-blunt").replace("not_=4.0", "not_=2.0")
    broken = TINY.replace("eq-one", "eq-broken").replace("4.0)", "4.0)\n    1 / 0")
    claims, errors = recorded_claims(tiny(TINY, "1 / 0", blunt, broken, "not run"), tmp_path)
    assert [(label, outcome) for label, outcome, _ in claims] == [
        ("eq-one", "passed"),
        ("eq-blunt", "ClaimFailed"),
        ("eq-broken", "ZeroDivisionError"),
    ]
    assert errors == ["ZeroDivisionError: division by zero"]
    claims, _ = recorded_claims(tiny(TINY), tmp_path, CHECKS_PERTURB="1")
    assert [(label, outcome) for label, outcome, _ in claims] == [("eq-one", "ClaimFailed")]

"""Known-wrong versions of the library's functions, put in their place: the chapters' claims must fail.

The cells that a claim depends on run with the wrong function; figures and training that no claim needs are left out.
Functions that no claim goes through have their known-wrong versions in the library's own tests.
"""

import ast
import math
import sys
from collections.abc import Callable
from functools import cache

import nbformat
import pytest
from torch import Tensor

from genimg_lib import distributions
from genimg_lib.checks import ClaimFailed
from tools.claim_sides import comparisons
from tools.execute import notebook_paths

NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in notebook_paths()}

KL_TERMS = "mu**2 + logvar.exp() - 1 - logvar"
# library function -> name of the mistake -> its body
WRONG: dict[str, dict[str, str]] = {
    "distributions.kl_diagonal_gaussian": {
        "without the half": f"lambda mu, logvar: ({KL_TERMS}).sum(1)",
        "mean for sum": f"lambda mu, logvar: 0.5 * ({KL_TERMS}).mean(1)",
        "without the prior's term": "lambda mu, logvar: -0.5 * (1 + logvar + math.log(2 * math.pi)).sum(1)",
        "without mu": "lambda mu, logvar: 0.5 * (logvar.exp() - 1 - logvar).sum(1)",
        "sign turned": f"lambda mu, logvar: -0.5 * ({KL_TERMS}).sum(1)",
        "sigma for variance": "lambda mu, logvar: 0.5 * (mu**2 + (logvar / 2).exp() - 1 - logvar).sum(1)",
        "logvar taken for log sigma": "lambda mu, logvar: 0.5 * (mu**2 + (2 * logvar).exp() - 1 - 2 * logvar).sum(1)",
        "divergence reversed": "lambda mu, logvar: 0.5 * ((1 + mu**2) / logvar.exp() - 1 + logvar).sum(1)",
    },
    "distributions.log_normal": {
        "without 2 pi": "lambda x, mu, logvar: -0.5 * (logvar + (x - mu)**2 / logvar.exp()).sum(-1)",
        "sigma for variance": "lambda x, mu, logvar: -0.5 * (L2P + logvar + (x - mu)**2 / (logvar / 2).exp()).sum(-1)",
        "without the normaliser": "lambda x, mu, logvar: -0.5 * ((x - mu)**2 / logvar.exp()).sum(-1)",
        "mean for sum": "lambda x, mu, logvar: -0.5 * (L2P + logvar + (x - mu)**2 / logvar.exp()).mean(-1)",
    },
    "distributions.log_standard_normal": {
        "without 2 pi": "lambda z: -0.5 * (z**2).sum(-1)",
        "mean for sum": "lambda z: -0.5 * (L2P + z**2).mean(-1)",
    },
}
Claims = dict[str, list[tuple[str, str]]]  # library function -> (notebook, label)
CASES = [(function, mistake) for function, mistakes in WRONG.items() for mistake in mistakes]


def put_in_place(function: str, wrong: Callable[..., Tensor], put: Callable[[object, str, object], object]) -> None:
    """Replace the function under every name by which a module of the library holds it."""
    name = function.removeprefix("distributions.")
    right = getattr(distributions, name)
    for path, holder in list(sys.modules.items()):
        if path.startswith("genimg_lib"):
            for held in [held for held, value in vars(holder).items() if value is right]:
                put(holder, held, wrong)


def claims_through(function: str) -> list[tuple[str, str]]:
    """(notebook, label) of the claims of which a side goes through the function."""
    found = [
        (name, label) for name in NOTEBOOKS for label, functions in sides_of(name) if f"genimg_lib.{function}" in functions
    ]
    return list(dict.fromkeys(found))


@cache
def sides_of(name: str) -> list[tuple[str, set[str]]]:
    """Each comparison of a notebook: its claim's label, and the functions that its two sides go through."""
    cells = [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    return [(comparison.label, comparison.actual | comparison.expected) for comparison in comparisons(cells)]


def names_in(source: str, *contexts: type) -> set[str]:
    """Names that the source reads (ast.Load) or binds (ast.Store: assignments, definitions, imports)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, contexts):
            found.add(node.id)
        elif ast.Store in contexts and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif ast.Store in contexts and isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def needed_cells(cells: list[str], labels: set[str]) -> list[str]:
    """The cells of these claims, and those before them that bind what they need, in order."""
    needed: set[str] = set()
    chosen: list[str] = []
    for source in reversed(cells):
        if names_in(source, ast.Store) & needed or any(f'claim("{label}"' in source for label in labels):
            needed |= names_in(source, ast.Load)
            chosen.insert(0, source)
    return chosen


def failing(notebook: str, labels: set[str]) -> set[str]:
    """Run what these claims need; the labels of the claims on the way that raised ClaimFailed."""
    code = [cell for cell in NOTEBOOKS[notebook].cells if cell.cell_type == "code"]
    cells = [cell.source for cell in code if "setup" not in cell.metadata.get("tags", [])]
    failed: set[str] = set()
    namespace: dict = {"__name__": "notebook"}
    for source in needed_cells(cells, labels):
        try:
            exec(source, namespace)
        except ClaimFailed as error:
            failed.add(str(error).split()[1])  # "claim eq-… failed"
    return failed


@pytest.fixture(scope="module")
def reached() -> Claims:
    return {function: claims_through(function) for function in WRONG}


def test_chapters_reach_the_functions_that_they_claim_about(reached: Claims) -> None:
    assert [function for function, claims in reached.items() if not claims] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_right_functions_pass(notebook: str, reached: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells that a claim needs are enough for it, so what fails below fails because of the mistake."""
    monkeypatch.delenv("CHECKS_PERTURB", raising=False)
    labels = {label for claims in reached.values() for name, label in claims if name == notebook}
    assert failing(notebook, labels) & labels == set()


@pytest.mark.parametrize(("function", "mistake"), CASES)
def test_a_known_mistake_is_caught(function: str, mistake: str, reached: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = eval(WRONG[function][mistake], {"math": math, "L2P": math.log(2 * math.pi)})
    put_in_place(function, wrong, monkeypatch.setattr)
    assert any(label in failing(notebook, {label}) for notebook, label in reached[function])

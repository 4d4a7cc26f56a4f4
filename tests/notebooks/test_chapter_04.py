"""Chapter 04 writes the VAE's step and the vector quantiser in the open; the library's copies must be the same programs."""

import ast
import inspect
from pathlib import Path

import nbformat
import pytest

from genimg_lib import training
from genimg_lib.networks import vq

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "vae" / "04_variational_autoencoder.ipynb"


def program(source: str, name: str = "") -> str:
    """The function `name`, or the first, of `source` as a syntax tree in text: no docstring, annotations, positions."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    function = next(node for node in functions if name in ("", node.name))
    function.returns = None
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    return ast.dump(function)


def shown(name: str) -> str:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.cell_type == "code" and f"def {name}(" in cell.source]
    return source


def shown_step() -> str:
    return shown("vae_step")


def test_the_step_shown_is_the_librarys() -> None:
    assert program(shown_step()) == program(inspect.getsource(training.vae_step))


@pytest.mark.parametrize(
    ("line", "altered"),
    [
        ("loss = (nll + kl).mean()", "loss = nll.mean() + kl.sum()"),
        ("optimizer.zero_grad()", "pass"),
        ("kl_diagonal_gaussian(mu, logvar)", "kl_diagonal_gaussian(logvar, mu)"),
    ],
)
def test_another_step_is_noticed(line: str, altered: str) -> None:
    source = shown_step()
    assert line in source
    assert program(source.replace(line, altered)) != program(inspect.getsource(training.vae_step))


def without_checks(source: str) -> str:
    """The source without the `if …: raise …` by which the library refuses wrong input."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [s for s in node.body if not (isinstance(s, ast.If) and isinstance(s.body[0], ast.Raise))]
    return ast.unparse(tree)


@pytest.mark.parametrize("name", ["nearest_code", "straight_through", "vq_terms", "ema_update", "revive"])
def test_the_quantiser_shown_is_the_librarys(name: str) -> None:
    assert program(shown(name), name) == program(without_checks(inspect.getsource(getattr(vq, name))))


def test_another_quantiser_is_noticed() -> None:
    for name, line, altered in (
        ("nearest_code", "- 2 * h", "- h"),
        ("straight_through", "(e - h).detach()", "e - h"),
        ("ema_update", "counts.mul_(decay)", "counts.mul_(1.0)"),
        ("revive", "counts < least", "counts > least"),
        ("revive", "sums[dead]", "sums[:]"),
    ):
        assert line in shown(name)
        changed = shown(name).replace(line, altered)
        assert program(changed, name) != program(without_checks(inspect.getsource(getattr(vq, name))))

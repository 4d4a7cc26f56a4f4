"""Chapter 04 writes the VAE's step in the open; the library's copy must be the same program."""

import ast
import inspect
from pathlib import Path

import nbformat
import pytest

from genimg_lib import training

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "vae" / "04_variational_autoencoder.ipynb"


def program(source: str) -> str:
    """The first function of `source` as a syntax tree in text, without docstring, annotations and positions."""
    function = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    function.returns = None
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    return ast.dump(function)


def shown_step() -> str:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.cell_type == "code" and "def vae_step(" in cell.source]
    return source


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

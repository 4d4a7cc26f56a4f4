"""What chapter 02 writes in the open: the unbiased MMD and the Gaussians' W2² are the library's, and its JS counts all of q."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from genimg_lib.metrics import frechet, kernels

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "foundations" / "02_distances_between_distributions.ipynb"


def shown(name: str, line: str = "", altered: str = "") -> Callable[..., Any]:
    """The function `name` of the chapter, run from its cell, with `line` replaced by `altered`."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.cell_type == "code" and f"def {name}(" in cell.source]
    assert line in source
    found: dict[str, Any] = {"torch": torch}
    exec(function_text(source.replace(line, altered), name), found)
    return found[name]


def function_text(source: str, name: str) -> str:
    """The lines of one function of the cell: its `def` and what is indented below it."""
    lines = source[source.index(f"def {name}(") :].splitlines()
    end = next((i for i, text in enumerate(lines) if i and text and not text.startswith((" ", ")"))), len(lines))
    return "\n".join(lines[:end])


def js_shown(m: float, s: float, line: str = "", altered: str = "") -> float:
    """The chapter's JS between its three hills and N(m, s²), by its own cells."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    found: dict[str, Any] = {"torch": torch, "Normal": Normal, "log2": math.log(2)}
    for part in ("weights = torch.tensor(", "log_mix = (hills", "def js_fit("):
        (source,) = [cell.source for cell in cells if cell.cell_type == "code" and cell.source.startswith(part)]
        if "js_fit" in part:
            assert line in source
            source = source.replace(line, altered)
        exec(source, found)
    return float(found["js_fit"](torch.tensor(m), torch.tensor(s)))


def js_far_and_wide(m: float, s: float) -> float:
    """The same by a sum over a line so long that nothing lies off it."""
    x = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    hills = Normal(torch.tensor([-4.0, 0.0, 3.5]).double(), torch.tensor([0.7, 0.5, 0.6]).double())
    p = MixtureSameFamily(Categorical(torch.tensor([0.35, 0.40, 0.25]).double()), hills).log_prob(x)
    q = Normal(torch.tensor(m).double(), torch.tensor(s).double()).log_prob(x)
    middle = torch.logaddexp(p, q) - math.log(2)
    return float(0.5 * ((p - middle) * p.exp() + (q - middle) * q.exp()).sum() * 1e-3)


PLACES = [(-0.5, 2.9), (8.0, 0.5), (-19.0, 31.4)]  # the last puts two thirds of q off the chapter's grid
TAIL = " + 0.5 * log2 * (1 - edges[1] + edges[0])"


def test_js_counts_what_lies_off_the_grid() -> None:
    for place in PLACES:
        assert js_shown(*place) == pytest.approx(js_far_and_wide(*place), abs=1e-5)


@pytest.mark.parametrize("altered", ["", TAIL.replace("0.5 * ", ""), TAIL.replace("+ edges[0]", "- edges[0]")])
def test_a_js_without_the_tail_is_noticed(altered: str) -> None:
    assert abs(js_shown(*PLACES[-1], TAIL, altered) - js_far_and_wide(*PLACES[-1])) > 0.05


def samples(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MMD_LINES = [
    ("k_xx.sum() - k_xx.diagonal().sum()", "k_xx.sum()"),
    ("(m * (m - 1))", "(m * m)"),
    ("2 * kernel(x, y).mean()", "kernel(x, y).mean()"),
]
W2_LINES = [(".sqrt().sum()", ".sum()"), ("- 2 * cross", "- cross"), ("B.trace()", "A.trace()")]


def mmd_gap(shown_mmd: Callable[..., torch.Tensor]) -> float:
    x, y = samples(12, 3, 0), samples(9, 3, 1) + 0.5
    there = kernels.mmd_squared(x, y, kernels.gaussian_kernel)
    return float((shown_mmd(x, y, shown("gaussian_kernel")) - there).abs())


def w2_gap(shown_w2: Callable[..., torch.Tensor]) -> float:
    (a, b), A, B = samples(2, 4, 2), samples(9, 4, 3), samples(9, 4, 4)
    cov_a, cov_b = A.T @ A, B.T @ B
    return float((shown_w2(a, cov_a, b, cov_b) - frechet.gaussian_w2_squared(a, cov_a, b, cov_b)).abs())


def test_the_functions_shown_are_the_librarys() -> None:
    assert mmd_gap(shown("mmd_squared")) < 1e-12
    assert w2_gap(shown("w2_squared")) < 1e-8


@pytest.mark.parametrize(("line", "altered"), MMD_LINES)
def test_another_mmd_is_noticed(line: str, altered: str) -> None:
    assert mmd_gap(shown("mmd_squared", line, altered)) > 1e-3


@pytest.mark.parametrize(("line", "altered"), W2_LINES)
def test_another_w2_is_noticed(line: str, altered: str) -> None:
    assert w2_gap(shown("w2_squared", line, altered)) > 1e-3

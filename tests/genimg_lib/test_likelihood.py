"""Units of a likelihood, and uniform dequantisation, against counting, SciPy and the chapter's own text."""

import ast
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats

from genimg_lib.likelihood import bits_per_dimension, dequantize

CHAPTER = Path(__file__).parents[2] / "notebooks" / "foundations" / "01_from_recognising_to_generating.ipynb"


def test_bits_of_a_table_are_its_entropy() -> None:
    """Independent pixels from a table of 17: as a density on [0, 1) a level has 17 times its probability."""
    table = np.random.default_rng(0).dirichlet(np.ones(17))
    entropy = stats.entropy(table, base=2)
    nats = 64 * stats.entropy(table)  # -log P of an image of 64 pixels, on average
    assert bits_per_dimension(nats, dims=64) == pytest.approx(entropy)
    on_unit = -64 * (table * np.log(17 * table)).sum()
    assert bits_per_dimension(on_unit, dims=64, levels=17) == pytest.approx(entropy)
    assert abs(bits_per_dimension(on_unit, dims=64, levels=16) - entropy) > 0.05


def test_bits_of_uniform_guessing() -> None:
    assert bits_per_dimension(0.0, dims=3072, levels=256) == pytest.approx(8)
    nats = torch.full((2, 3), 10 * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(bits_per_dimension(nats, dims=5), torch.full((2, 3), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [{"dims": 0}, {"dims": 5, "levels": 0}])
def test_bits_refuse_no_pixels_and_no_levels(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected the number of pixels"):
        bits_per_dimension(1.0, **sizes)


def test_noise_stays_in_the_cell_and_is_uniform() -> None:
    images = torch.arange(17, dtype=torch.uint8).repeat(20_000, 1)
    x = dequantize(images, levels=17, generator=torch.Generator().manual_seed(0))
    assert x.shape == images.shape and x.dtype == torch.float64
    assert torch.equal(x.floor(), images.double())
    u = (x - images).flatten()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.001
    assert torch.corrcoef((x - images).T).fill_diagonal_(0).abs().max() < 0.04  # each pixel has its own noise


def test_the_average_is_a_lower_bound_of_the_cells_mass() -> None:
    images = torch.full((200_000,), 7, dtype=torch.uint8)
    x = dequantize(images, generator=torch.Generator().manual_seed(0))
    logs = torch.distributions.Normal(6.2, 1.1).log_prob(x)
    model = stats.norm(6.2, 1.1)
    exact = -0.5 * math.log(2 * math.pi * 1.1**2) - ((7.5 - 6.2) ** 2 + 1 / 12) / (2 * 1.1**2)
    assert abs(logs.mean().item() - exact) < 5 * logs.std().item() / math.sqrt(len(logs))
    assert logs.mean().item() < math.log(model.cdf(8) - model.cdf(7)) - 0.02


def test_the_same_generator_gives_the_same_noise() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    first, again, other = (dequantize(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_dequantize_refuses_floats_and_levels_out_of_range() -> None:
    with pytest.raises(TypeError, match=r"torch.float32: expected uint8"):
        dequantize(torch.rand(3))
    with pytest.raises(ValueError, match="reach 17: expected grey levels below levels=17"):
        dequantize(torch.tensor([17], dtype=torch.uint8), levels=17)


def test_the_chapter_writes_the_same_bodies() -> None:
    """The functions as chapter 01 has them in the open, read from the notebook, give the same numbers."""
    wanted = {"bits_per_dimension", "dequantize"}
    notebook = nbformat.read(CHAPTER, as_version=4)
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    assert {node.name for node in found} == wanted
    names = {"torch": torch, "np": np}
    exec("\n".join(ast.unparse(node) for node in found), names)
    nats = torch.linspace(-300, 300, 7, dtype=torch.float64)
    for levels in (1, 17, 256):
        expected = names["bits_per_dimension"](nats, dims=64, levels=levels)
        torch.testing.assert_close(bits_per_dimension(nats, dims=64, levels=levels), expected, rtol=1e-14, atol=1e-14)
    images = torch.randint(0, 17, (5, 64), dtype=torch.uint8)
    expected = names["dequantize"](images, torch.Generator().manual_seed(3))
    assert torch.equal(dequantize(images, levels=17, generator=torch.Generator().manual_seed(3)), expected)

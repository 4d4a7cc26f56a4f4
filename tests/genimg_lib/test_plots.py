"""genimg_lib.plots: the tiling pixel by pixel, what is drawn, and that the colours keep their promises."""

import io
import itertools
import re

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from genimg_lib import plots


@pytest.fixture(autouse=True)
def clean_figures():
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        plots.use_style()
        yield
        plt.close("all")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
def test_every_pixel_of_the_grid_is_in_its_place(n, channels, height, width, columns, pad):
    images = torch.rand(n, channels, height, width)
    grid = plots.as_grid(images, columns, pad)
    rows = (n + columns - 1) // columns
    expected = np.ones((rows * (height + pad) - pad, columns * (width + pad) - pad, channels), dtype=np.float32)
    for i in range(n):
        top, left = i // columns * (height + pad), i % columns * (width + pad)
        expected[top : top + height, left : left + width] = images[i].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(grid.numpy(), expected)


def test_grid_takes_what_a_decoder_gives():
    images = torch.sigmoid(torch.zeros(2, 1, 2, 2, dtype=torch.float64, requires_grad=True))
    grid = plots.as_grid(images, 2)
    assert grid.dtype == torch.float32 and not grid.requires_grad


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (2, 2, 4, 4), (2, 4, 4, 1), (0, 1, 4, 4)])
def test_other_shapes_are_refused(shape):
    message = f"expected images (N, 1 or 3, H, W) with N > 0, got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plots.as_grid(torch.zeros(shape), 2)


@pytest.mark.parametrize("value, given", [(255.0, "[0, 255]"), (-0.5, "[-0.5, 0]"), (float("nan"), "[nan, nan]")])
def test_other_ranges_are_refused(value, given):
    images = torch.zeros(2, 1, 2, 2)
    images[1, 0, 1, 0] = value
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected images in [0, 1], got {given}; rescale them, then draw')}$"):
        plots.as_grid(images, 2)


def test_image_grid_draws_black_as_black_and_one_label_a_row():
    images = torch.full((6, 1, 8, 8), 0.25)  # a flat grey: without vmin and vmax it would be drawn black
    ax = plots.image_grid(images, columns=3, row_labels=["data", "model"], title="two rows")
    picture = ax.images[0]
    assert picture.get_clim() == (0, 1) and picture.get_array().shape == (17, 26)
    assert picture.to_rgba(0.25)[:3] == pytest.approx((0.25,) * 3, abs=0.01)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["data", "model"]
    for tick, centre in zip(ax.get_yticks(), [3.5, 12.5], strict=True):
        assert abs(tick - centre) <= 1
    assert ax.get_title() == "two rows" and not len(ax.get_xticks())


def test_colour_images_are_drawn_in_colour():
    images = torch.zeros(1, 3, 2, 2)
    images[:, 0] = 1
    ax = plots.image_grid(images, columns=1)
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array())[0, 0], [1, 0, 0])


@pytest.mark.parametrize("labels, title", [((), ""), (("data", "model"), ""), (("original", "decoded"), "Reconstructions")])
@pytest.mark.parametrize("columns", [5, 10])
def test_a_pixel_is_at_least_as_large_as_asked(labels, title, columns):
    ax = plots.image_grid(torch.rand(2 * columns, 1, 28, 28), columns=columns, scale=1.5, row_labels=labels, title=title)
    ax.figure.canvas.draw()
    box, picture = ax.get_window_extent(), ax.images[0].get_array()
    height, width = picture.shape
    assert box.width / width >= 1.5 and box.height / height >= 1.5
    assert box.width / width == pytest.approx(box.height / height, rel=1e-3)  # square pixels


def test_image_grid_draws_into_the_axes_given():
    _, ax = plt.subplots()
    assert plots.image_grid(torch.rand(4, 1, 3, 3), columns=2, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_seed_band_shows_the_mean_and_the_full_range():
    runs = torch.tensor([[0.0, 4.0, 2.0], [2.0, 0.0, 2.0], [4.0, 2.0, 8.0]])
    _, ax = plt.subplots()
    plots.seed_band(ax, [10, 20, 30], runs, "GAN")
    (line,), (band,) = ax.lines, ax.collections
    np.testing.assert_allclose(line.get_xydata(), [[10, 2], [20, 2], [30, 4]])
    corners = band.get_paths()[0].vertices
    for step, low, high in [(10, 0, 4), (20, 0, 4), (30, 2, 8)]:
        assert {low, high} <= set(corners[corners[:, 0] == step, 1])
        assert corners[corners[:, 0] == step, 1].min() == low and corners[corners[:, 0] == step, 1].max() == high
    assert line.get_label() == "GAN" and to_rgb(line.get_color()) == tuple(band.get_facecolor()[0][:3])
    assert band.get_alpha() < 0.5


def test_use_style_forgets_earlier_settings():
    plt.rcParams["lines.linewidth"] = 17
    plt.rcParams["axes.facecolor"] = "black"
    plots.use_style()
    assert plt.rcParams["lines.linewidth"] < 3
    assert [entry["color"] for entry in plt.rcParams["axes.prop_cycle"]] == plots.COLOURS


def test_a_saved_figure_has_an_opaque_plate_and_few_kilobytes():
    _, ax = plt.subplots()
    ax.plot([0, 1], [1, 0])
    file = io.BytesIO()
    plt.savefig(file, format="png")
    assert len(file.getvalue()) < 30_000
    picture = plt.imread(io.BytesIO(file.getvalue()), format="png")
    assert picture.shape[:2] == (307, 614)  # 6.4 × 3.2 inches at 96 dots
    np.testing.assert_allclose(picture[0, 0, :3], to_rgb(plots.PLATE), atol=1 / 255)
    assert picture.shape[2] == 3 or picture[..., 3].min() == 1


# What a reader sees without one kind of cone, in linear RGB: Viénot, Brettel & Mollon (1999); for blue, Machado et al. (2009).
CONES_MISSING = {
    "none": np.eye(3),
    "red": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "green": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "blue": [[1.25553, -0.07675, -0.17878], [-0.07841, 0.93081, 0.14760], [0.00473, 0.69137, 0.30390]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB: distances in it are about those that people see."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest_pair(colours: list, missing: str) -> float:
    """The smallest distance between two of the colours; about 2 is just noticeable."""
    srgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.asarray(CONES_MISSING[missing]) @ rgb) for rgb in linear]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("missing", CONES_MISSING)
def test_colours_are_told_apart_by_colour_blind_readers(missing):
    assert nearest_pair([*plots.COLOURS, plots.PLATE], missing) > 10


def test_the_check_of_colours_rejects_a_red_and_a_green():
    red, green = (0.906, 0.349, 0.349), (0.349, 0.659, 0.349)
    assert nearest_pair([red, green], "none") > 50
    assert nearest_pair([red, green], "green") < 5

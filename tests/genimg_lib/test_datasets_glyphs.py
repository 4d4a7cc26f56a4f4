"""glyphs: the same bytes everywhere, and factors that mean what they say (measured by moments of the ink)."""

import hashlib
import math
import os
import subprocess
import sys
import time

import pytest
import torch

from genimg_lib import datasets
from genimg_lib.datasets import glyphs

GREY_1000 = "e903d32f36be1c12d38a2c18a3929436d6c2efaa966417d1cd44552f3d25ccec"
COLOUR_1000 = "b1c56007b8b5312281aef091fddfa84b1b7f96bc52e06c5b66d8e930a4a006a0"


def sha256(data):
    return hashlib.sha256(data.images.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()


def drawn(character="I", font="sans", size=64, **factors):
    """One image as float64 (size, size), with neutral geometry but for the factors given."""
    values = {"angle": 0.0, "shear": 0.0, "scale": 1.0, "shift": (0.0, 0.0)} | factors
    table = {k: torch.tensor([v], dtype=torch.float32) for k, v in values.items()}
    table["character"] = torch.tensor([glyphs.ALPHABET.index(character)])
    table["font"] = torch.tensor([glyphs.FONTS.index(font)])
    return glyphs.render(table, size)[0, 0].double()


def moments(image):
    """Ink (in full pixels), mean x, mean y, var x, var y, cov; y downwards, from the image's centre, in pixels."""
    axis = torch.arange(len(image), dtype=torch.float64) - (len(image) - 1) / 2
    p = image / image.sum()
    x, y = (p.sum(0) * axis).sum(), (p.sum(1) * axis).sum()
    dx, dy = axis - x, axis - y
    cov = (p * dy[:, None] * dx).sum()
    return [float(v) for v in (image.sum() / 255, x, y, (p.sum(0) * dx**2).sum(), (p.sum(1) * dy**2).sum(), cov)]


def test_a_seed_gives_these_bytes():
    assert sha256(datasets.load("glyphs", n=1000)) == GREY_1000
    assert sha256(datasets.load("glyphs", n=1000, size=32, color=True, seed=7, split="test")) == COLOUR_1000


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_bytes_do_not_depend_on_the_processor(capability):
    code = (
        "import hashlib; from genimg_lib import datasets; d = datasets.load('glyphs', n=1000);"
        "print(hashlib.sha256(d.images.numpy().tobytes() + d.labels.numpy().tobytes()).hexdigest())"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == GREY_1000


def test_a_smaller_n_or_another_chunk_changes_nothing(monkeypatch):
    whole = datasets.load("glyphs", n=300, color=True, seed=3)
    first = datasets.load("glyphs", n=100, color=True, seed=3)
    monkeypatch.setattr(glyphs, "CHUNK", 7 * 28 * 28)
    pieces = datasets.load("glyphs", n=300, color=True, seed=3)
    assert torch.equal(whole.images[:100], first.images)
    assert torch.equal(whole.images, pieces.images)
    for name, values in whole.factors.items():
        assert torch.equal(values[:100], first.factors[name]), name


def test_seeds_and_splits_differ_and_colour_keeps_the_geometry():
    a, b = datasets.load("glyphs", n=200), datasets.load("glyphs", n=200, seed=1)
    c = datasets.load("glyphs", n=200, split="test", fonts="train")
    assert not torch.equal(a.factors["angle"], b.factors["angle"])
    assert not torch.equal(a.factors["angle"], c.factors["angle"])
    coloured = datasets.load("glyphs", n=200, color=True)
    for name, values in a.factors.items():
        assert torch.equal(values, coloured.factors[name]), name


def test_test_images_use_held_out_fonts():
    assert len(glyphs.FONTS) == 16 and len(glyphs.ALPHABET) == 62 and len(glyphs.TRAIN_FONTS) == 12
    train = datasets.load("glyphs", n=2000).factors["font"].unique()
    test = datasets.load("glyphs", n=2000, split="test").factors["font"].unique()
    assert [glyphs.FONTS[i] for i in train] == list(glyphs.TRAIN_FONTS)
    assert sorted(glyphs.FONTS[i] for i in test) == sorted(glyphs.TEST_FONTS)
    both = datasets.load("glyphs", n=2000, fonts=("mono", "stix")).factors["font"].unique()
    assert sorted(glyphs.FONTS[i] for i in both) == ["mono", "stix"]


def test_factors_have_their_stated_ranges_and_labels_their_characters():
    data = datasets.load("glyphs", n=20_000, characters="xA7")
    limits = {"angle": (-15, 15), "shear": (-0.2, 0.2), "scale": (0.8, 1.1), "shift": (-0.08, 0.08)}
    for name, (low, high) in limits.items():
        values, slack = data.factors[name], (high - low) / 500
        assert low <= values.min() < low + slack and high - slack < values.max() <= high + 1e-6, name
    assert data.classes == ("x", "A", "7") and len(data) == 20_000
    assert [glyphs.ALPHABET[i] for i in data.factors["character"][:50]] == [data.classes[i] for i in data.labels[:50]]
    assert torch.bincount(data.labels).min() > 6400  # 6,667 expected, standard deviation 67


def test_an_upright_glyph_is_centred_and_its_ink_does_not_depend_on_the_image_size():
    for character in "IHoX8":
        _, x, y, *_ = moments(drawn(character))
        assert abs(x) < 1.5 and abs(y) < 1.5, character
    share = [moments(drawn("H", size=s))[0] / s**2 for s in (14, 28, 64, 100, 256)]
    assert max(share) < 1.03 * min(share)


def test_positive_angle_turns_counter_clockwise_and_positive_shear_leans_to_the_right():
    _, _, _, xx, yy, xy = moments(drawn("I", angle=15.0))
    assert math.degrees(0.5 * math.atan2(2 * xy, yy - xx)) == pytest.approx(15, abs=0.3)  # top to the left: cov > 0
    _, _, _, xx, yy, xy = moments(drawn("I", shear=0.2))
    assert xy / yy == pytest.approx(-0.2, abs=0.005)  # x = -shear * y, y downwards


def test_scale_shift_and_their_order():
    ink, x, y, *_ = moments(drawn("X"))
    small, *_ = moments(drawn("X", scale=0.8))
    assert small / ink == pytest.approx(0.64, rel=0.02)
    _, x2, y2, *_ = moments(drawn("X", shift=(0.08, -0.05), scale=0.8))
    x1, y1 = 0.8 * x, 0.8 * y  # the shift is in shares of the image, not scaled with the glyph
    assert (x2 - x1, y2 - y1) == pytest.approx((0.08 * 64, -0.05 * 64), abs=0.05)


def test_a_glyph_is_leaned_first_then_turned():
    """Its second moments are those of the upright glyph, M, mapped: A M Aᵀ with A = turn · lean, y downwards."""

    def matrix(image):
        *_, xx, yy, xy = moments(image)
        return torch.tensor([[xx, xy], [xy, yy]])

    turn, lean = math.radians(15), 0.2
    turned = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    leaned = torch.tensor([[1.0, -lean], [0.0, 1.0]])
    expected = turned @ leaned @ matrix(drawn("X", size=256)) @ (turned @ leaned).T
    found = matrix(drawn("X", size=256, angle=15.0, shear=0.2))
    torch.testing.assert_close(found, expected, rtol=0.005, atol=0.005 * float(expected.max()))


def test_colours_are_the_factors_and_stand_apart():
    data = datasets.load("glyphs", n=2000, color=True, characters="I", fonts=("sans-bold",), size=32)
    corner, centre = data.images[:, :, 0, 0], data.images[:, :, 16, 16]
    assert torch.equal(corner.long(), data.factors["background"])
    near = (centre.long() - data.factors["foreground"]).abs().amax(1)
    assert (near == 0).float().mean() > 0.5  # the centre of most is on the stem
    luminance = torch.tensor([0.30, 0.59, 0.11])
    contrast = ((data.factors["foreground"] - data.factors["background"]).float() @ luminance).abs()
    assert contrast.quantile(0.01) > 50


def test_colour_is_the_grey_image_as_a_mixture():
    grey = datasets.load("glyphs", n=50)
    colour = datasets.load("glyphs", n=50, color=True)
    alpha = grey.images.double() / 255
    ink, paper = (colour.factors[k].double()[:, :, None, None] for k in ("foreground", "background"))
    assert (alpha * ink + (1 - alpha) * paper - colour.images).abs().max() <= 1.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"characters": "ab!"}, "unknown: \\['!'\\]"),
        ({"characters": ""}, "one or more"),
        ({"characters": "aa"}, "each once"),
        ({"fonts": "serif"}, "'train', 'test', 'all'"),
        ({"fonts": ("comic",)}, "comic"),
        ({"size": 4}, "8 to 512"),
        ({"size": 28.0}, "whole number"),
        ({"seed": -1}, "0 or more"),
        ({"n": 0}, "at least 1"),
        ({"split": "valid"}, "'train' or 'test'"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        datasets.load("glyphs", **options)


def test_nothing_touches_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    datasets.load("glyphs", n=10, color=True)
    assert torch.equal(torch.rand(3), expected)


def test_sixty_thousand_take_at_most_five_seconds_of_one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()  # of this process, whatever else the machine does
    datasets.load("glyphs")
    torch.set_num_threads(threads)
    assert time.process_time() - start < 5

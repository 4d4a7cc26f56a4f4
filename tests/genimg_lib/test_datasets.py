"""load by name, a folder of images, digits, the 2-D toys, unit range, binarisation, batches."""

import builtins
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from genimg_lib import datasets


@pytest.mark.parametrize(
    "typed, meant", [("mnits", "mnist"), ("Fashion-MNIST", "fashion-mnist"), ("glyph", "glyphs"), ("cifar10", "cifar-10")]
)
def test_an_unknown_name_suggests_the_nearest(typed, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        datasets.load(typed)


def test_wrong_options_and_too_many_images_are_named():
    with pytest.raises(TypeError, match=r"unknown options \['sise'\].*'size'"):
        datasets.load("glyphs", sise=28)
    with pytest.raises(TypeError, match=r"unknown options \['size'\]"):
        datasets.load("digits", size=28)
    with pytest.raises(ValueError, match="has 297 test images"):
        datasets.load("digits", split="test", n=300)


def test_digits_are_the_scans_with_17_levels():
    train, test = datasets.load("digits"), datasets.load("digits", split="test")
    scans = load_digits()
    both = torch.cat([train.images, test.images])
    assert np.array_equal(both[:, 0].numpy(), scans.images) and train.images.shape == (1500, 1, 8, 8)
    assert torch.cat([train.labels, test.labels]).tolist() == scans.target.tolist()
    x = datasets.to_unit(train)
    assert train.levels == 17 and float(x.max()) == 1 and torch.equal(x, train.images / 16)
    assert len(datasets.load("digits", n=10)) == 10


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Ten red images 40 x 20 in `a`, twenty blue ones in `b`; the right half of each is white."""
    for name, count, colour in (("b", 20, (0, 0, 255)), ("a", 10, (255, 0, 0))):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.zeros((20, 40, 3), np.uint8) + np.array(colour, np.uint8)
            pixels[:, 20:] = 255
            Image.fromarray(pixels).save(tmp_path / name / f"{i:02}.png")
        (tmp_path / name / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_classes_crops_and_splits(pictures):
    train = datasets.load(pictures, size=10, color=True)
    assert train.images.shape == (27, 3, 10, 10) and train.classes == ("a", "b")
    assert torch.bincount(train.labels).tolist() == [9, 18]
    red = train.images[0]  # the centre 20 x 20 of 40 x 20: half red, half white
    assert red[:, :, :5].amax((1, 2)).tolist() == [255, 0, 0] and red[:, :, 5:].min() == 255
    test = datasets.load(str(pictures), split="test")
    assert test.images.shape == (3, 1, 28, 28) and test.labels.tolist() == [0, 1, 1]


def test_a_flat_folder_is_one_class(pictures):
    data = datasets.load(pictures / "a")
    assert data.classes == ("a",) and len(data) == 9


def test_a_folder_without_or_with_broken_images_is_refused(pictures, tmp_path):
    (pictures / "a" / "05.png").write_bytes((pictures / "a" / "05.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"05\.png is not a readable image"):
        datasets.load(pictures)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no train image"):
        datasets.load(tmp_path / "empty")


def test_a_missing_pillow_is_named(pictures, monkeypatch):
    real = builtins.__import__

    def without_pillow(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(ImportError, match="needs Pillow"):
        datasets.load(pictures)


# --- points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, modes, std", [("ring", 8, 0.01), ("grid", 25, 0.05)])
def test_gaussian_mixtures_have_their_modes_and_spread(name, modes, std):
    data = datasets.points(name, 40_000, seed=1)
    assert len(data) == 40_000 and data.std == std and len(data.centers) == modes
    off = data.points - data.centers[data.labels]
    assert float(off.std()) == pytest.approx(std, rel=0.02)  # in each coordinate
    assert float((off.norm(dim=1) < 3 * std).float().mean()) == pytest.approx(1 - math.exp(-4.5), abs=0.002)  # 98.89 %
    assert torch.bincount(data.labels).min() > 0.9 * 40_000 / modes
    radius = data.centers.norm(dim=1)
    assert torch.allclose(radius, torch.ones(8)) if name == "ring" else float(radius.max()) == pytest.approx(32**0.5)
    assert torch.equal(data.points, datasets.points(name, 40_000, seed=1).points)
    assert not torch.equal(data.points[:9], datasets.points(name, 9, seed=2).points)


def test_moons_and_spiral_lie_on_their_curves():
    moons = datasets.points("two-moons", 20_000)
    about = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[moons.labels]
    off = moons.points - about
    assert float(off.norm(dim=1).mean()) == pytest.approx(1, abs=0.005)
    assert (off[moons.labels == 0, 1] > -0.25).all() and (off[moons.labels == 1, 1] < 0.25).all()
    spiral = datasets.points("spiral", 2000)
    t = np.linspace(0, 1, 5000)
    for arm in (0, 1):
        angle, radius = 3 * np.pi * t + np.pi * arm, 0.2 + 1.8 * t
        curve = torch.tensor(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), dtype=torch.float32)
        distance = torch.cdist(spiral.points[spiral.labels == arm], curve).amin(1)
        assert float(distance.mean()) == pytest.approx(0.05 * math.sqrt(2 / math.pi), rel=0.1)  # E|noise across it|
    assert moons.centers.shape == spiral.centers.shape == (0, 2)


def test_unknown_points_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ring'"):
        datasets.points("rings", 10)
    with pytest.raises(ValueError, match="at least 1"):
        datasets.points("ring", 0)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_to_unit_divides_by_the_highest_level():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(datasets.to_unit(x), torch.tensor([0.0, 0.2, 1.0]))
    with pytest.raises(TypeError, match="uint8"):
        datasets.to_unit(x.float())
    with pytest.raises(ValueError, match="below levels=17"):
        datasets.to_unit(x, levels=17)


def test_binarize_draws_with_the_given_probability():
    x = torch.tensor([0.0, 0.2, 0.9, 1.0]).repeat(50_000, 1)
    bits = datasets.binarize(x, torch.Generator().manual_seed(0))
    assert set(bits.unique().tolist()) == {0.0, 1.0} and bits.dtype == x.dtype
    mean = bits.double().mean(0)
    assert mean[0] == 0 and mean[3] == 1  # 0 never, 1 always
    assert mean[1:3].tolist() == pytest.approx([0.2, 0.9], abs=0.01)  # 5 standard errors
    assert not torch.equal(bits, datasets.binarize(x, torch.Generator().manual_seed(1)))


def test_a_black_pixel_is_never_drawn_white(monkeypatch):
    """torch.rand gives exactly 0 once in 2^24 draws: a few pixels in every 60,000 images."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(*shape))
    assert datasets.binarize(torch.tensor([0.0, 0.5])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "x, error, message",
    [
        (torch.tensor([0.0, 255.0]), ValueError, r"spans \[0, 255\].*to_unit"),
        (torch.tensor([-1.0, 1.0]), ValueError, r"spans \[-1, 1\]"),
        (torch.tensor([0.5, math.nan]), ValueError, "NaN"),
        (torch.tensor([0.5, math.inf]), ValueError, "inf"),
        (torch.tensor([0, 1], dtype=torch.uint8), TypeError, "uint8.*to_unit"),
        (torch.empty(0), ValueError, "empty"),
    ],
)
def test_binarize_refuses_what_is_not_a_probability(x, error, message):
    with pytest.raises(error, match=message):
        datasets.binarize(x)


def test_batches_visit_every_row_once_an_epoch_in_a_new_order():
    x, y = torch.arange(10), torch.arange(10) * 2
    seen = list(datasets.batches(x, y, batch_size=5, generator=torch.Generator().manual_seed(0), epochs=2))
    assert all(torch.equal(b, 2 * a) for a, b in seen) and len(seen) == 4
    first, second = torch.cat([seen[0][0], seen[1][0]]), torch.cat([seen[2][0], seen[3][0]])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist() != list(range(10))


def test_batches_drop_or_keep_the_rest_and_need_no_shuffle():
    x = torch.arange(10)
    assert [b.tolist() for b in datasets.batches(x, batch_size=4, epochs=1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    kept = list(datasets.batches(x, batch_size=4, epochs=1, drop_last=False))
    assert [len(b) for b in kept] == [4, 4, 2] and torch.equal(torch.cat(kept), x)
    forever = datasets.batches(x, batch_size=10)
    assert [len(next(forever)) for _ in range(3)] == [10, 10, 10]


def test_batches_refuse_at_once():
    with pytest.raises(ValueError, match=r"lengths \[3, 2\]"):
        datasets.batches(torch.zeros(3), torch.zeros(2), batch_size=1)
    with pytest.raises(ValueError, match="batch_size=4 with 3 rows"):
        datasets.batches(torch.zeros(3), batch_size=4)
    with pytest.raises(ValueError, match="batch_size=0"):
        datasets.batches(torch.zeros(3), batch_size=0)

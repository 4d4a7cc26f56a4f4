"""*glyphs*: characters in 16 faces, drawn with random geometry and colour; every factor is known.

The random numbers are drawn on the CPU and every product below is exact in float32 (few enough bits), so that a seed
gives the same bytes on every processor and device, whatever the order of summation and the size of a chunk.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FONTS = tuple(f + s for f in ("sans", "serif", "mono", "stix") for s in ("", "-bold", "-italic", "-bold-italic"))
TEST_FONTS = ("sans-bold-italic", "serif-bold", "mono", "stix-italic")  # one of each family, one of each style
TRAIN_FONTS = tuple(f for f in FONTS if f not in TEST_FONTS)
ATLAS = Path(__file__).with_name("glyph_atlas.npz")
CELL = 64  # atlas pixels on a side

ANGLE = 15.0  # degrees, either way; positive turns counter-clockwise
SHEAR = 0.2  # either way; positive leans the top to the right
SCALE = (0.8, 1.1)  # at 1 a capital is 38/64 of the image high
SHIFT = 0.08  # of the image's side, either way; (right, down)
CHUNK = 1 << 19  # pixels drawn at a time: a few MB, which stay in the cache


@lru_cache(maxsize=4)
def _atlas(cell: int) -> Tensor:
    """The atlas averaged down to cells of this side: (16 * 62, 1, cell, cell), whole numbers 0..255 as float32."""
    atlas = torch.from_numpy(np.load(ATLAS, allow_pickle=False)["atlas"]).flatten(0, 1).unsqueeze(1)
    return F.avg_pool2d(atlas.float() * 17, CELL // cell).round()  # 16 levels, 0..15


def load(
    split: str,
    n: int,
    device: torch.device | None = None,
    *,
    size: int = 28,
    color: bool = False,
    seed: int = 0,
    characters: str = ALPHABET,
    fonts: str | tuple[str, ...] | None = None,
) -> tuple[Tensor, Tensor, tuple[str, ...], dict[str, Tensor]]:
    """images uint8 (n, 1 or 3, size, size), labels int64 (n,), classes, factors; see `datasets.load`."""
    fonts = split if fonts is None else fonts
    character_ids = _indices(tuple(characters), tuple(ALPHABET), "characters")
    named = {"train": TRAIN_FONTS, "test": TEST_FONTS, "all": FONTS}
    if isinstance(fonts, str) and fonts not in named:
        raise ValueError(f"fonts={fonts!r}: expected 'train', 'test', 'all' or a tuple of names from {FONTS}")
    font_ids = _indices(named[fonts] if isinstance(fonts, str) else tuple(fonts), FONTS, "fonts")
    if not (isinstance(size, int) and 8 <= size <= 512):
        raise ValueError(f"size={size!r}: expected a whole number of pixels, 8 to 512")
    if not (isinstance(seed, int) and 0 <= seed < 2**62):
        raise ValueError(f"seed={seed!r}: expected a whole number, 0 or more")

    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))  # the two splits never share a draw
    u = torch.rand(n, 7 + 3 * 9, generator=generator)  # a row an image: a smaller n gives the first images of a larger one
    labels = (u[:, 0] * len(character_ids)).long().clamp_(max=len(character_ids) - 1)
    factors = {
        "character": character_ids[labels],  # index into ALPHABET
        "font": font_ids[(u[:, 1] * len(font_ids)).long().clamp_(max=len(font_ids) - 1)],  # index into FONTS
        "angle": ANGLE * (2 * u[:, 2] - 1),
        "shear": SHEAR * (2 * u[:, 3] - 1),
        "scale": SCALE[0] + (SCALE[1] - SCALE[0]) * u[:, 4],
        "shift": SHIFT * (2 * u[:, 5:7] - 1),
    }
    if color:
        factors |= _colours(u[:, 7:].view(n, 9, 3))
    images = torch.empty(n, 3 if color else 1, size, size, dtype=torch.uint8, device=device)
    step = max(1, CHUNK // size**2)
    for start in range(0, n, step):
        part = {k: v[start : start + step] for k, v in factors.items()}
        images[start : start + step] = render(part, size, device)
    device = images.device
    return images, labels.to(device), tuple(characters), {k: v.to(device) for k, v in factors.items()}


def render(factors: dict[str, Tensor], size: int, device: torch.device | None = None) -> Tensor:
    """Draw one image for each row of the factors: uint8 (B, 1, size, size), or (B, 3, size, size) with colours."""
    cell = min(CELL, max(8, 2 ** round(np.log2(size))))  # about as fine as the image: no aliasing
    cells = _atlas(cell)[factors["font"] * len(ALPHABET) + factors["character"]].to(device)  # (B, 1, cell, cell)

    angle, shear, scale = (factors[k].double() for k in ("angle", "shear", "scale"))
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    # image = scale * turn * lean * atlas + shift, about the centre; here its inverse, y downwards
    turn_back = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    lean_back = torch.eye(2, dtype=torch.float64).repeat(len(scale), 1, 1)
    lean_back[:, 0, 1] = shear
    inverse = lean_back @ turn_back * (cell / (2 * size) / scale)[:, None, None]  # atlas pixels per half image pixel
    offset = -(inverse @ (2 * size * factors["shift"].double())[:, :, None])
    inverse, offset = (((m * 2**14).round() / 2**14).float().to(device) for m in (inverse, offset))

    u = torch.arange(1 - size, size, 2, dtype=torch.float32, device=device)  # half pixels from the centre
    grid = torch.empty(len(cells), size, size, 2, device=device)
    for axis in range(2):  # x, then y; rounded to 1/64 of an atlas pixel
        along_x = inverse[:, axis, 0, None] * u + offset[:, axis]  # (B, W)
        along_y = inverse[:, axis, 1, None] * u  # (B, H)
        grid[..., axis] = (along_x[:, None, :] + along_y[:, :, None]).mul_(64).round_().mul_(1 / (32 * cell))
    alpha = F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False).round_()
    if "foreground" not in factors:
        return alpha.to(torch.uint8)
    ink, paper = (factors[k].float().to(device)[:, :, None, None] for k in ("foreground", "background"))
    weight = alpha + (alpha >= 128)  # 0..256, so that the division is exact
    return (((256 - weight) * paper + weight * ink + 128) / 256).floor_().to(torch.uint8)


def _colours(u: Tensor) -> dict[str, Tensor]:
    """RGB (n, 3) 0..255 from u (n, 9, 3) in [0, 1): a background, and of eight colours the one farthest in luminance."""
    colours = (u * 256).long().clamp_(max=255)
    luminance = colours @ torch.tensor([77, 150, 29])  # (n, 9), times 256
    best = (luminance[:, 1:] - luminance[:, :1]).abs().argmax(1) + 1
    return {"foreground": colours[torch.arange(len(u)), best], "background": colours[:, 0]}


def _indices(chosen: tuple[str, ...], known: tuple[str, ...], what: str) -> Tensor:
    unknown = [c for c in chosen if c not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{what}={chosen!r}: expected one or more, each once, of {known}; unknown: {unknown}")
    return torch.tensor([known.index(c) for c in chosen])

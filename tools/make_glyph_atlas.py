"""Rasterise the glyph atlas: 62 characters x 16 faces of the fonts that Matplotlib ships.

    python tools/make_glyph_atlas.py            # rewrites genimg_lib/datasets/glyph_atlas.npz

The atlas is committed, because rasterisers change between versions and the data set must not.
Each face is scaled to one cap height (that of its H), each character is centred by its ink.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from genimg_lib.datasets.glyphs import ALPHABET, ATLAS, CELL, FONTS

FILES = {
    "sans": "DejaVuSans",
    "sans-bold": "DejaVuSans-Bold",
    "sans-italic": "DejaVuSans-Oblique",
    "sans-bold-italic": "DejaVuSans-BoldOblique",
    "serif": "DejaVuSerif",
    "serif-bold": "DejaVuSerif-Bold",
    "serif-italic": "DejaVuSerif-Italic",
    "serif-bold-italic": "DejaVuSerif-BoldItalic",
    "mono": "DejaVuSansMono",
    "mono-bold": "DejaVuSansMono-Bold",
    "mono-italic": "DejaVuSansMono-Oblique",
    "mono-bold-italic": "DejaVuSansMono-BoldOblique",
    "stix": "STIXGeneral",
    "stix-bold": "STIXGeneralBol",
    "stix-italic": "STIXGeneralItalic",
    "stix-bold-italic": "STIXGeneralBolIta",
}
OVERSAMPLE = 8  # each atlas pixel is the mean of 8 x 8 finer ones
CAP_HEIGHT = 38  # atlas pixels, of 64
LEVELS = 16  # 4 bits of grey keep the file small; sampling smooths them


def ink(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """The character's ink, cropped to its bounding box, (h, w) in [0, 255]."""
    x0, y0, x1, y1 = font.getbbox(character)
    canvas = Image.new("L", (int(x1 - x0) + 8, int(y1 - y0) + 8), 0)
    ImageDraw.Draw(canvas).text((4 - x0, 4 - y0), character, fill=255, font=font)
    pixels = np.asarray(canvas)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def face(path: Path) -> np.ndarray:
    """All characters of one face, (62, CELL, CELL) uint8 below LEVELS."""
    trial = ink(ImageFont.truetype(str(path), 1000), "H").shape[0]
    font = ImageFont.truetype(str(path), round(1000 * CAP_HEIGHT * OVERSAMPLE / trial))
    cells = np.zeros((len(ALPHABET), CELL * OVERSAMPLE, CELL * OVERSAMPLE), np.uint8)
    for cell, character in zip(cells, ALPHABET, strict=True):
        pixels = ink(font, character)
        margin = CELL * OVERSAMPLE - np.array(pixels.shape)
        if margin.min() < 2 * OVERSAMPLE:
            raise ValueError(f"{path.name}: {character!r} leaves no margin in its cell; lower CAP_HEIGHT")
        top, left = margin // 2
        cell[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    fine = cells.reshape(len(ALPHABET), CELL, OVERSAMPLE, CELL, OVERSAMPLE)
    return np.rint(fine.mean((2, 4)) * (LEVELS - 1) / 255).astype(np.uint8)


def main() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    atlas = np.stack([face(folder / f"{FILES[name]}.ttf") for name in FONTS])  # (16, 62, 64, 64)
    np.savez_compressed(ATLAS, atlas=atlas)
    print(f"{ATLAS.name}: {atlas.shape}, {ATLAS.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""What a stored output may hold, and when a new output agrees with it.

Numbers agree within `rtol * |stored| + atol`; integers exactly, unless the cell is `stochastic`; all other text
exactly, spacing apart. A figure agrees if at most a share `pixels` of its pixels differ. A pixel differs if a colour
channel lies more than LEVELS outside the range that its 3 x 3 neighbourhood has in the other picture: a line may move
by up to a pixel (0.1 % of an axis is half of one), by two it fails.
"""

import base64
import io
import itertools
import math
import re
from dataclasses import dataclass

import numpy as np
from nbformat import NotebookNode
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

LEVELS = 32  # of 255: what antialiasing may change
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w])")
TEXT_TYPES = ("text/plain", "text/html", "text/latex", "text/markdown")
PICTURES = ("image/svg+xml", "image/jpeg", "image/gif", "application/pdf")

FORBIDDEN = {
    "an absolute path": re.compile(
        r"(?<![\w.:/<])/(?:home|root|Users|tmp|usr|work|content|mnt|var|opt|srv|private)/|\b[A-Z]:\\\w"
    ),
    "a memory address": re.compile(r"\b0x[0-9a-fA-F]{6,}\b"),
    "a progress bar": re.compile(r"\d%\||\bit/s\b|\bs/it\b|[█▏▎▍▌▋▊▉]"),
    "a timing": re.compile(  # "3 s", but not "3 s.e." (standard errors)
        r"(?i:CPU times|Wall time)|\b\d+(?:\.\d+)? ?(?:ns|µs|us|ms|s|secs?|seconds?|minutes?)\b(?!\.e)|/s\b"
    ),
}


@dataclass(frozen=True)
class Tolerance:
    """How far a new output may be from the stored one: the fields of `metadata.genimg` in a stochastic cell."""

    rtol: float = 1e-3  # of the stored number
    atol: float = 1e-12  # so that two rounding errors, 1e-16 and 3e-17, are equal
    pixels: float = 1e-5  # share of a figure's pixels: 3 of 640 x 480; one digit of an axis is 5 to 10
    stochastic: bool = False


def tolerance_of(cell: NotebookNode) -> Tolerance:
    """The tolerance that the cell asks for; ValueError if its tag `stochastic` and `metadata.genimg` do not fit."""
    stochastic = "stochastic" in cell.metadata.get("tags", [])
    wishes = dict(cell.metadata.get("genimg", {}))
    if not stochastic:
        if wishes:
            raise ValueError(f"metadata.genimg {wishes} without the tag 'stochastic': add the tag or remove the metadata")
        return Tolerance()
    reason = wishes.pop("reason", "")
    if not isinstance(reason, str) or len(reason.split()) < 4:
        raise ValueError(f"a stochastic cell says in metadata.genimg.reason why its output differs; got {reason!r}")
    limits = {"rtol": 0.5, "atol": math.inf, "pixels": 0.5}
    for name, value in wishes.items():
        if name not in limits:
            raise ValueError(f"metadata.genimg.{name} is unknown: use {', '.join(limits)} and reason")
        if not isinstance(value, (int, float)) or not 0 <= value <= limits[name]:
            raise ValueError(f"metadata.genimg.{name} = {value!r}: a number between 0 and {limits[name]} is expected")
    if not wishes:
        raise ValueError("a stochastic cell states in metadata.genimg at least one of rtol, atol, pixels")
    return Tolerance(**wishes, stochastic=True)


def output_problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the stored outputs of a notebook, a line a fault; every code cell must have run, in order."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    problems = []
    for number, cell in enumerate(code):
        if cell.execution_count != number + 1:
            count = cell.execution_count
            problems.append(f"code cell {number} has execution count {count}, not {number + 1}: run `make execute`")
        problems += [f"code cell {number} stores {fault}" for fault in cell_problems(cell)]
    return problems


def cell_problems(cell: NotebookNode) -> list[str]:
    """The faults of one cell's stored outputs."""
    faults = []
    for output in cell.outputs:
        if output.output_type == "error":
            faults.append(f"the error {output.ename}: {output.evalue}")
        elif output.output_type == "stream" and output.name == "stderr":
            faults.append(f"a message on stderr: {output.text[:200]!r}")
        for kind in output.get("data", {}):
            if kind in PICTURES or "widget" in kind:
                faults.append(f"{kind}: figures are stored as image/png only")
        for text in _texts(output):
            for what, pattern in FORBIDDEN.items():
                if found := pattern.search(text):
                    line = text[: found.end()].splitlines()[-1]
                    faults.append(f"{what}: {line[-120:]!r}")
    return faults


def _texts(output: NotebookNode) -> list[str]:
    data = output.get("data", {})
    return [output.text] if "text" in output else [data[kind] for kind in TEXT_TYPES if kind in data]


def differences(stored: list[NotebookNode], new: list[NotebookNode], tolerance: Tolerance) -> list[str]:
    """How new outputs disagree with the stored ones, a line for each way; empty when they agree."""
    found = []
    for name in ("stdout", "stderr"):
        lines = text_differences(_stream(stored, name), _stream(new, name), tolerance)
        found += [f"{name}: {line}" for line in lines]
    rich_stored, rich_new = ([output for output in outputs if "data" in output] for outputs in (stored, new))
    if len(rich_stored) != len(rich_new):
        found.append(f"{len(rich_stored)} figures or results are stored, {len(rich_new)} came out of the run")
    for place, (was, now) in enumerate(zip(rich_stored, rich_new, strict=False)):
        found += [f"output {place}: {line}" for line in _rich_differences(was, now, tolerance)]
    return found


def _stream(outputs: list[NotebookNode], name: str) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == name)


def _rich_differences(was: NotebookNode, now: NotebookNode, tolerance: Tolerance) -> list[str]:
    if (was.output_type, set(was.data)) != (now.output_type, set(now.data)):
        return [f"stored {was.output_type} {sorted(was.data)}, new {now.output_type} {sorted(now.data)}"]
    found = []
    for kind, value in was.data.items():
        if kind == "image/png":
            found += picture_differences(value, now.data[kind], tolerance)
        elif kind in TEXT_TYPES:
            found += [f"{kind}: {line}" for line in text_differences(value, now.data[kind], tolerance)]
        elif value != now.data[kind]:
            found.append(f"{kind} differs")
    return found


def text_differences(was: str, now: str, tolerance: Tolerance) -> list[str]:
    """The lines in which two texts disagree: a word, a number beyond its tolerance, or a line too many."""
    found = []
    for old, new in itertools.zip_longest(was.splitlines(), now.splitlines()):
        if old is None or new is None or not _same_line(old, new, tolerance):
            found.append(f"stored {old!r}, new {new!r}")
    return found


def _same_line(was: str, now: str, tolerance: Tolerance) -> bool:
    words = [" ".join(NUMBER.sub(" # ", line).split()) for line in (was, now)]
    if words[0] != words[1]:
        return False
    pairs = zip(NUMBER.findall(was), NUMBER.findall(now), strict=True)
    return all(_same_number(old, new, tolerance) for old, new in pairs)


def _same_number(was: str, now: str, tolerance: Tolerance) -> bool:
    if not tolerance.stochastic and _is_integer(was) and _is_integer(now):
        return int(was) == int(now)
    # A printed zero stands for all that rounds to it, 0.000 for -0.0001, but for no more than 1e-6: "0.0" is not 0.04.
    rounding = min(_last_digit(was) / 2, 1e-6) if float(was) == 0 else 0.0
    return abs(float(was) - float(now)) <= tolerance.rtol * abs(float(was)) + max(tolerance.atol, rounding)


def _is_integer(number: str) -> bool:
    return not re.search(r"[.eE]", number)


def _last_digit(number: str) -> float:
    """The value of one unit in the last digit printed: 0.01 for 3.14, 1e-9 for 2.5e-8."""
    mantissa, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def picture_differences(was: str, now: str, tolerance: Tolerance) -> list[str]:
    """How two pictures (PNG in base64) disagree: in size, or in more pixels than the tolerance allows."""
    old, new = _pixels(was), _pixels(now)
    if old.shape != new.shape:
        return [f"a figure of (height, width, 3) = {old.shape} is stored, one of {new.shape} came out of the run"]
    differing = differing_pixels(old, new)
    share = differing.mean()
    if share <= tolerance.pixels:
        return []
    return [f"{differing.sum()} of the figure's pixels differ: a share of {share:.2g}, {tolerance.pixels:.2g} is allowed"]


def _pixels(png: str) -> np.ndarray:
    """The picture on a white page: (height, width, 3), 0 to 255."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(page, picture).convert("RGB"), dtype=np.int16)


def differing_pixels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which pixels (H, W) of a or b (H, W, 3) lie more than LEVELS outside the other's 3 x 3 neighbourhood there."""

    def outside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        low, high = minimum_filter(y, size=(3, 3, 1)), maximum_filter(y, size=(3, 3, 1))
        return ((x > high + LEVELS) | (x < low - LEVELS)).any(axis=-1)

    return outside(a, b) | outside(b, a)

"""The strict nbval, shown to fail: a small notebook is executed, spoiled cell by cell, and goes through pytest itself."""

import base64
import copy
import io
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from PIL import Image

from tools.execute import ROOT, run, sockets, tidy
from tools.nbval_extension import started_at_last

Edit = Callable[[NotebookNode], None]
REASON = "sampled without a seed, for the test"
FIGURE = "fig, ax = plt.subplots(dpi=72)\nax.plot(x, np.sin(9 * x), lw=1)\nax.set(ylim=(-1.2, 1.2));"
NUMBERS = "print('mean of the squares', round(float((x**2).mean()), 4), 'from', len(x), 'numbers')"  # 0.3339
RESULT = "{'area': 0.25, 'shape': (2, 3)}"
SAMPLED = "print('accuracy', round(0.8 + 0.01 * np.random.default_rng().uniform(), 6))"


def text(old: str, new: str) -> Edit:
    """Replace `old` by `new` in the cell's stored output."""

    def edit(cell: NotebookNode) -> None:
        output = cell.outputs[0]
        where, key = (output, "text") if "text" in output else (output.data, "text/plain")
        assert old in where[key], f"{old!r} is not in {where[key]!r}"
        where[key] = where[key].replace(old, new)

    return edit


def picture(change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Apply `change` to the pixels (H, W, 4) of the cell's stored figure."""

    def edit(cell: NotebookNode) -> None:
        data = cell.outputs[0].data
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGBA"))
        buffer = io.BytesIO()
        Image.fromarray(change(pixels)).save(buffer, "PNG")
        data["image/png"] = base64.b64encode(buffer.getvalue()).decode()

    return edit


def antialiasing_noise(pixels: np.ndarray) -> np.ndarray:
    """Up to 20 of 255 levels at every pixel with ink."""
    noise = np.random.default_rng(0).integers(-20, 21, pixels.shape)
    noise[..., 3] = 0
    return np.clip(pixels + noise * (pixels.min(axis=-1, keepdims=True) < 255), 0, 255).astype(np.uint8)


def curve_moved(pixels: np.ndarray, by: int = 2) -> np.ndarray:
    """The blue curve, and nothing else, lower by some pixels."""
    blue = pixels[..., 2].astype(int) - pixels[..., 0] > 40
    rows, columns = np.nonzero(blue)
    moved = pixels.copy()
    moved[blue] = 255
    moved[rows + by, columns] = pixels[rows, columns]
    return moved


def metadata(**fields: object) -> Edit:
    return lambda cell: cell.metadata.update(nbformat.from_dict(fields))


def source(more: str) -> Edit:
    return lambda cell: cell.update(source=cell.source + more)


def outputs(change: Callable[[list], list]) -> Edit:
    return lambda cell: cell.update(outputs=change(cell.outputs))


def count(value: int | None) -> Edit:
    return lambda cell: cell.update(execution_count=value)


def both(*edits: Edit) -> Edit:
    def edit(cell: NotebookNode) -> None:
        for one in edits:
            one(cell)

    return edit


WARN = source("\nimport warnings; warnings.warn('something new')")
STDERR = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: something new\n")
OVERLOOK = both(metadata(tags=["nbval-ignore-output", "nbval-skip"]), source("\n# NBVAL_SKIP\n# NBVAL_IGNORE_OUTPUT"))

# name: (the cell's code, how its stored form is changed)
ACCEPTED: dict[str, tuple[str, Edit]] = {
    "untouched": (NUMBERS, lambda cell: None),
    "within rtol": (NUMBERS, text("0.3339", "0.3340")),
    "antialiasing": (FIGURE, picture(antialiasing_noise)),
    "stochastic within its rtol": (SAMPLED, lambda cell: None),
}
REJECTED: dict[str, tuple[str, Edit]] = {
    "changed digit": (NUMBERS, text("0.3339", "0.3439")),
    "changed integer": (NUMBERS, text("300", "301")),
    "changed word": (NUMBERS, text("numbers", "letters")),
    "changed result": (RESULT, text("0.25", "0.26")),
    "result removed": (RESULT, outputs(lambda old: [])),
    "curve moved by 2 pixels": (FIGURE, picture(curve_moved)),
    "figure blank": (FIGURE, picture(lambda pixels: np.full_like(pixels, 255))),
    "figure removed": (FIGURE, outputs(lambda old: [])),
    "figure added": (FIGURE, outputs(lambda old: old * 2)),
    "not executed": (NUMBERS, count(None)),
    "out of order": (NUMBERS, count(1)),
    "stochastic without reason": (SAMPLED, metadata(genimg={"rtol": 0.05})),
    "stochastic without tolerance": (SAMPLED, metadata(genimg={"reason": REASON})),
    "stochastic outside its rtol": (SAMPLED, text("0.8", "0.7")),
    "stochastic, changed word": (SAMPLED, text("accuracy", "precision")),
    "stochastic, boundless": (SAMPLED, metadata(genimg={"rtol": 3.0, "reason": REASON})),
    "tolerance without the tag": (NUMBERS, metadata(genimg={"rtol": 0.1, "reason": REASON})),
    "nbval's own switches": (NUMBERS, both(text("numbers", "letters"), OVERLOOK)),
    "new warning": (NUMBERS, WARN),
    "stored warning": (NUMBERS, both(WARN, outputs(lambda old: [*old, STDERR]))),
    "exception allowed": (NUMBERS, both(source("\nraise RuntimeError"), metadata(tags=["raises-exception"]))),
    "timing": (NUMBERS, text("numbers", "numbers in 3.1 s")),
}
CASES = ACCEPTED | REJECTED


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The places of the failed cells in the untouched, the spoiled and the cleared notebook, from one run of pytest."""
    folder = tmp_path_factory.mktemp("variants")
    notebook = executed_notebook(folder)
    spoiled, cleared = copy.deepcopy(notebook), copy.deepcopy(notebook)
    for cell, (_, edit) in zip(spoiled.cells[1:], CASES.values(), strict=True):
        edit(cell)
    for cell in cleared.cells:
        cell.update(outputs=[], execution_count=None)
    for name, variant in {"untouched": notebook, "spoiled": spoiled, "cleared": cleared}.items():
        nbformat.write(variant, folder / f"{name}.ipynb")
    return failed_cells(folder)


def executed_notebook(folder: Path) -> NotebookNode:
    """Imports, then the code of every case, executed."""
    cells = ["import numpy as np, matplotlib.pyplot as plt\nx = np.linspace(0, 1, 300)", *(code for code, _ in CASES.values())]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    for cell in notebook.cells:
        if cell.source == SAMPLED:
            metadata(tags=["stochastic"], genimg={"rtol": 0.05, "reason": REASON})(cell)
    run(notebook, folder)
    tidy(notebook)
    return notebook


def failed_cells(folder: Path) -> dict[str, set[int]]:
    """Run pytest over the notebooks of a folder; the places of the code cells that failed, by the notebook's name."""
    shutil.copy(ROOT / "conftest.py", folder)
    options = ["-p", "nbval.plugin", "-p", "xdist", "-p", "no:cacheprovider", "--nbval", "-n", "2", "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", "--junitxml=result.xml", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    failed: dict[str, set[int]] = {path.stem: set() for path in folder.glob("*.ipynb")}
    for case in ET.parse(folder / "result.xml").iter("testcase"):
        if case.find("failure") is None and case.find("error") is None:
            continue
        assert case.attrib["name"].startswith("Cell "), f"{case.attrib}: {''.join(case.itertext())}\n{done.stdout}"
        failed[case.attrib["classname"].removesuffix(".ipynb")].add(int(case.attrib["name"].removeprefix("Cell ")))
    return failed


def test_untouched_passes(failed: dict[str, set[int]]) -> None:
    assert failed["untouched"] == set()


def test_cleared_fails_in_every_cell(failed: dict[str, set[int]]) -> None:
    assert failed["cleared"] == set(range(len(CASES) + 1))


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(failed: dict[str, set[int]], name: str) -> None:
    assert 1 + list(CASES).index(name) not in failed["spoiled"]


@pytest.mark.parametrize("name", REJECTED)
def test_rejects(failed: dict[str, set[int]], name: str) -> None:
    assert 1 + list(CASES).index(name) in failed["spoiled"]


def test_kernels_share_no_address() -> None:
    assert sockets()["ip"] != sockets()["ip"] or os.name == "nt"


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_kernel_that_does_not_come_up_is_started_again_twice(failures: int) -> None:
    asked = []

    def start(kernel: object, name: str, cwd: str) -> None:
        asked.append((name, cwd))
        if len(asked) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")

    if failures == 3:
        with pytest.raises(RuntimeError, match="died"):
            started_at_last(start)(None, "python", cwd="here")
    else:
        started_at_last(start)(None, "python", cwd="here")
    assert asked == [("python", "here")] * min(failures + 1, 3)

"""A book of two pages, built like the real one with the real configuration and extensions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from tools.setup_cell import SETUP_CELL

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "notebooks/vae/07_small"

TITLE = "(ch-small)=\n# A small chapter\n\nThis sentence says in plain words what the small chapter is about."
CLAIM = "## Derive\n\n$$a = \\frac{b}{c}$$ (eq-small)\n\n$$b = c$$ (def-small)\n\nBy {eq}`eq-small`, all is well."
CHECK = "with claim('eq-small', wrong='upside down'):\n    agree(a, b / c, not_=c / b)\n    checks.agree(1, 1)"
EXERCISE = "```{exercise} Warm-up\n:label: ex-small\nShow it.\n```\n\n```{solution} ex-small\n:class: dropdown\nShown.\n```"
FIGURE = "```{interactive} kl-gaussian\n:alt: two curves and two sliders\nThe divergence is zero where the curves agree.\n```"


def write(folder: Path, *markdown: str, check: str = CHECK) -> Path:
    """Writes the book: an index page, and a chapter of the text cells given, with the setup cell and a checked claim."""
    for name in ("book/ext", "tools", "book/assets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    needed = ("_config.yml", "book/macros.json", "book/references.bib", "genimg_lib/__init__.py", "genimg_lib/provenance.py")
    for name in needed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    if (ROOT / ".cache").exists():  # spares npm the way
        shutil.copytree(ROOT / ".cache", folder / ".cache")
    text = nbformat.v4.new_markdown_cell
    cells = [text(TITLE), nbformat.v4.new_code_cell(SETUP_CELL, metadata={"tags": ["setup"]}), *map(text, markdown)]
    cells.append(nbformat.v4.new_code_cell(check))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / f"{CHAPTER}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    times = {f"{CHAPTER}.ipynb": {"seconds": 41.2, "peak_mb": 870.4, "threads": 1, "hardware": "a slow core"}}
    (folder / "book" / "running_times.json").write_text(json.dumps(times))
    (folder / "book" / "equations.md").write_text("# Which equation\n\n```{equation-index}\n```\n")
    parts = [{"caption": "Part", "numbered": 2, "chapters": [{"file": CHAPTER}]}]
    (folder / "_toc.yml").write_text(json.dumps({"format": "jb-book", "root": "book/equations", "parts": parts}))
    return folder


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Builds as the Makefile does; standard error is merged into standard output."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BOOK_REPO_") and key != "PYTHONPATH"}
    command = [Path(sys.executable).parent / "jupyter-book", "build", ".", "--all", "-W", "-n", "--keep-going", "--quiet"]
    return subprocess.run(
        command, cwd=folder, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def html(folder: Path, page: str = CHAPTER) -> str:
    return (folder / "_build" / "html" / f"{page}.html").read_text(encoding="utf-8")

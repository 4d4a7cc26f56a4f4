"""The setup cell that opens every notebook, and the stamp that the published copies get.

The committed text names no repository: where `genimg_lib` is installed the cell does nothing, elsewhere it says how to
install it. The site's copies carry the address of their own repository, so that they run alone (in Colab, say).

    python tools/setup_cell.py      prints the cell, to paste into a new notebook (tag it `setup`)
"""

from __future__ import annotations

import copy
import re
from typing import Any

UNSTAMPED = 'REPO, REF = "", ""'
STAMP = re.compile(r"^REPO, REF = .*?(?=  # )", re.MULTILINE)

# torch and numpy are named with the versions that are there, so pip keeps them and brings only what is missing.
SETUP_CELL = f"""\
# Installs the book's library where it is missing (in Colab, say). Where it is installed, this cell does nothing.
import subprocess
import sys
from importlib import invalidate_caches, metadata, util

{UNSTAMPED}  # the published copy of this notebook carries the book's address
if util.find_spec("genimg_lib") is None:
    if not REPO:
        raise ModuleNotFoundError("genimg_lib is missing: run `pip install .` in the book's folder, with this Python")
    keep = [f"{{d.name}}=={{d.version}}" for d in metadata.distributions() if d.name in ("torch", "numpy")]
    done = subprocess.run([sys.executable, "-m", "pip", "install", f"git+{{REPO}}@{{REF}}", *keep], capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    invalidate_caches()"""


def source(cell: dict[str, Any]) -> str:
    """The cell's text; nbformat allows one string or a list of lines."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def is_setup_cell(cell: dict[str, Any]) -> bool:
    """True for a code cell whose text is SETUP_CELL, stamped or not."""
    return cell["cell_type"] == "code" and STAMP.sub(lambda _: UNSTAMPED, source(cell).strip(), count=1) == SETUP_CELL


def stamp(notebook: dict[str, Any], repo: str, ref: str) -> dict[str, Any]:
    """A copy of the notebook whose setup cell installs from the git address `repo` (https or file) at `ref`.

    Stamping a stamped copy replaces its address. Raises ValueError for a notebook without the setup cell.
    """
    stamped = copy.deepcopy(notebook)
    cells = [cell for cell in stamped["cells"] if is_setup_cell(cell)]
    line = f"REPO, REF = {repo!r}, {ref!r}"
    if not cells:
        raise ValueError("the notebook has no setup cell: its first code cell is what `python tools/setup_cell.py` prints")
    for cell in cells:
        cell["source"] = STAMP.sub(lambda _: line, source(cell).strip(), count=1)
    return stamped


if __name__ == "__main__":
    print(SETUP_CELL)

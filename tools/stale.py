"""Lists results and weights whose library code has changed since they were made (comments and docstrings aside).

    python tools/stale.py       exit status 1 if there are any
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from genimg_lib.provenance import is_stale  # noqa: E402


def stale_files(root: Path) -> list[Path]:
    """The stale ones among the results (their block is under "provenance") and the weights (the file is the block)."""
    results = {path: read(path)["provenance"] for path in root.glob("bench/results/*/*.json")}
    weights = {path: read(path) for path in root.glob("genimg_lib/weights/*.json")}
    return sorted(path for path, block in {**results, **weights}.items() if is_stale(block))


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    found = stale_files(ROOT)
    for path in found:
        print(f"stale: {path.relative_to(ROOT)}: delete it and run its command again")
    sys.exit(bool(found))

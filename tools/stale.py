"""Lists results and weights whose library code has changed since they were made (comments and docstrings aside).

    python tools/stale.py       exit status 1 if there are any
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from genimg_lib.provenance import is_stale  # noqa: E402


def stale_files(root: Path) -> list[Path]:
    """The stale ones among bench/results/*/*.json and genimg_lib/weights/*.json."""
    paths = [*root.glob("bench/results/*/*.json"), *root.glob("genimg_lib/weights/*.json")]
    return [path for path in sorted(paths) if is_stale(json.loads(path.read_text(encoding="utf-8"))["provenance"])]


if __name__ == "__main__":
    found = stale_files(ROOT)
    for path in found:
        print(f"stale: {path.relative_to(ROOT)}: delete it and run its command again")
    sys.exit(bool(found))

"""Where the built site is, and its pages."""

import os
from pathlib import Path

SITE = Path(os.environ.get("BOOK_SITE", Path(__file__).resolve().parents[2] / "_build" / "html"))


def pages() -> list[str]:
    """The site's pages, as paths below it; the theme's own pages (search, index) and the redirect at the root aside."""
    found = [path for folder in ("book", "notebooks") for path in (SITE / folder).rglob("*.html")]
    return sorted(path.relative_to(SITE).as_posix() for path in found)

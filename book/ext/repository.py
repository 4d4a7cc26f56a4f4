"""The repository's address, known only when the site is built: BOOK_REPO_URL, and BOOK_REPO_BRANCH (default main).

With an address the pages get a repository and an issues button, and the notebooks that the site offers for download are
stamped: their setup cell installs the library from there. On github.com each chapter also gets a Colab link, which opens
the stamped copy on the branch that holds the published site. Without an address there is none of these.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

from tools import setup_cell

SITE_BRANCH = "gh-pages"  # where .github/workflows/publish.yml pushes the site
HOSTS = ("github.com", "gitlab.com", "bitbucket.org")  # those whose buttons the theme can draw


def host(url: str) -> str:
    """The host name of a repository's address; empty for a file:// address or none."""
    return urlsplit(url).hostname or ""


def colab_link(url: str, docname: str) -> str | None:
    """Colab's address of a chapter's published notebook, or None where Colab cannot open it (not on github.com)."""
    if host(url) != "github.com":
        return None
    owner_and_name = urlsplit(url).path.strip("/").removesuffix(".git")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/{SITE_BRANCH}/_sources/{docname}.ipynb"


def set_address(app: Sphinx, config: Config) -> None:
    """Replaces Jupyter Book's own address, its default, by ours or by none."""
    url = os.environ.get("BOOK_REPO_URL", "").rstrip("/")
    known = host(url) in HOSTS
    config["book_repo_url"] = url
    config["book_repo_branch"] = os.environ.get("BOOK_REPO_BRANCH", "") or "main"
    config.html_theme_options |= {
        "launch_buttons": {},
        "repository_url": url.removesuffix(".git") if known else "",
        "repository_branch": config["book_repo_branch"],
        "use_repository_button": known,
        "use_issues_button": known,
    }


def stamp_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Fills in the setup cells of the site's copies of the notebooks."""
    if exception or app.builder.format != "html" or not app.config["book_repo_url"]:
        return
    for path in sorted(Path(app.outdir, "_sources").rglob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        stamped = setup_cell.stamp(notebook, app.config["book_repo_url"], app.config["book_repo_branch"])
        path.write_text(json.dumps(stamped, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("book_repo_url", "", "env", str)
    app.add_config_value("book_repo_branch", "main", "env", str)
    app.connect("config-inited", set_address)
    app.connect("build-finished", stamp_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

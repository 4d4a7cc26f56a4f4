"""Maths typeset at build time by KaTeX: fonts and stylesheet from the site itself, node from the environment.

Adds three things to sphinxcontrib-katex: its stylesheet comes from `tools/katex.py`, the macros of `book/macros.json`
are known, and a formula that KaTeX cannot read is a warning (so the build fails) instead of red text on the page.
"""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import sphinxcontrib.katex as katex_builder
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from tools import katex

PATIENCE = 60.0  # seconds for node to start, and for one formula, on a busy machine
logger = logging.getLogger(__name__)
_typeset = katex_builder.render_latex


def render_latex(latex: str, options: dict[str, Any] | None = None) -> str:
    """The HTML and MathML of a formula; warns where KaTeX met an error."""
    html: str = _typeset(latex, options)
    if "katex-error" in html:
        logger.warning("KaTeX cannot typeset this formula: %s", latex, type="maths")
    return html


def start_server(rundir: Path, timeout: float) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Node, and a connection to it.

    The package's unix-socket start connects once, perhaps before the server listens; its network start tries until it
    does. A request is two small writes, and without TCP_NODELAY the second waits some 40 ms for the first's acknowledgement.
    """
    process, connection = katex_builder.KaTeXServer.start_network_socket(rundir, timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return process, connection


def use_local_katex(app: Sphinx, config: Config) -> None:
    if katex_builder.katex_version != katex.VERSION:
        raise RuntimeError(
            f"sphinxcontrib-katex typesets with KaTeX {katex_builder.katex_version}, the stylesheet is that of "
            f"{katex.VERSION}: set VERSION and SHA512 in tools/katex.py"
        )
    root = Path(app.confdir)
    config.html_static_path.append(str(katex.install(root / ".cache")))
    katex_builder.NODEJS_BINARY = str(katex.node_program("node"))
    katex_builder.KATEX_DEFAULT_OPTIONS["macros"] = json.loads((root / "book" / "macros.json").read_text(encoding="utf-8"))
    katex_builder.render_latex = render_latex
    katex_builder.KaTeXServer.start_server_process = start_server
    katex_builder.STARTUP_TIMEOUT = katex_builder.RENDER_TIMEOUT = PATIENCE


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_local_katex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Maths typeset at build time by KaTeX: fonts and stylesheet from the site itself, node from the environment.

Adds three things to sphinxcontrib-katex: its stylesheet comes from `tools/katex.py`, the macros of `book/macros.json`
are known, and a formula that KaTeX cannot read is a warning (so the build fails) instead of red text on the page.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
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
    """Node, and a connection to it over a unix socket, tried until node listens.

    The package's own start connects once, perhaps too early. Over TCP each formula would wait some 40 ms: question and answer
    are two small writes each, and the second is held back until the first is acknowledged.
    """
    server, address = katex_builder.KaTeXServer, rundir / "katex.sock"
    process = subprocess.Popen(server.build_command(socket=address), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=rundir)
    connection, end = socket.socket(socket.AF_UNIX), time.monotonic() + timeout
    while connection.connect_ex(str(address)):
        if time.monotonic() > end:
            process.kill()
            raise server.timeout_error(timeout)
        time.sleep(0.01)
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

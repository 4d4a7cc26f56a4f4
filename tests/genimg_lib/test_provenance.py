"""The source hash follows code, not comments; the block is plain JSON without host names or paths; no torch is needed."""

import json
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genimg_lib import provenance

SOURCES = {
    "genimg_lib/__init__.py": '__version__ = "1"\n',
    "genimg_lib/top.py": "import math\nfrom .deep import F, leaf\n\ndef f(x):\n    return leaf.g(x) + math.pi * F(x)\n",
    "genimg_lib/deep/__init__.py": "from .side import F\nA = 1\nprint(A)\nB = 1\n",
    "genimg_lib/deep/side.py": "E = 1\nG = 1\n\ndef F(x):\n    return E\n",
    "genimg_lib/deep/leaf.py": "def g(x):\n    from genimg_lib import late\n    return late.h(x)\n",
    "genimg_lib/late.py": "class C:\n    x = 1\n\ndef h(x):\n    return x\n\ndef k(x):\n    return x + 1\n",
    "genimg_lib/other.py": "B = 1\n",
    "genimg_lib/solo/__init__.py": "print(1)\n",
    "genimg_lib/solo/leaf.py": "E = 1\n",
    "genimg_lib/star.py": "J = 1\n",
    "bench/run.py": "import genimg_lib.top\nimport genimg_lib.solo.leaf\nfrom genimg_lib.star import *\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small library of its own; `edit(file, old, new)` changes it."""
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def edit(file: str, old: str, new: str) -> None:
        assert old in SOURCES[file]
        (tmp_path / file).write_text(SOURCES[file].replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("genimg_lib/top.py", "+ math", "- math"),
        ("genimg_lib/deep/leaf.py", "late.h(x)", "late.h(x) * 2"),  # imported relatively
        ("genimg_lib/late.py", "return x\n\n", "return -x\n\n"),  # imported inside a function
        ("genimg_lib/deep/__init__.py", "A = 1", "A = 2"),  # used by a statement that defines nothing
        ("genimg_lib/deep/side.py", "return E", "return -E"),  # handed on by a package
        ("genimg_lib/deep/side.py", "E = 1", "E = 2"),  # used by a function that is used
        ("genimg_lib/solo/__init__.py", "print(1)", "print(2)"),  # run when a module below it is imported
        ("genimg_lib/solo/leaf.py", "E = 1", "E = 2"),  # imported for its effect
        ("genimg_lib/star.py", "J = 1", "J = 2"),
        ("bench/run.py", "import genimg_lib.top", "import genimg_lib.top as t"),
        ("genimg_lib/late.py", "return x\n\n", "return x if True else 1\n\n"),
    ],
)
def test_a_change_of_code_is_seen(tree, file, old, new):
    before = provenance.source_hash(["bench.run"])
    tree(file, old, new)
    assert provenance.source_hash(["bench.run"]) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("genimg_lib/late.py", "def h(x):\n", 'def h(x):\n    """Says something."""\n\n    # and more\n'),
        ("genimg_lib/late.py", "class C:\n", 'class C:\n    """Says something."""\n'),
        ("genimg_lib/late.py", "class C", '"""Module."""\n\nclass C'),
        ("genimg_lib/other.py", "B = 1", "B = 2"),  # imported by nobody here
        ("genimg_lib/late.py", "x + 1", "x + 2"),  # a neighbour of what is used
        ("genimg_lib/late.py", "x = 1", "x = 2"),
        ("genimg_lib/deep/__init__.py", "B = 1", "B = 2"),
        ("genimg_lib/deep/side.py", "G = 1", "G = 2"),
        ("genimg_lib/__init__.py", '"1"', '"2"'),  # a new version number alone
    ],
)
def test_words_and_strangers_are_not(tree, file, old, new):
    before = provenance.source_hash(["bench.run"])
    tree(file, old, new)
    assert provenance.source_hash(["bench.run"]) == before


def test_order_and_repetition_of_names_do_not_matter(tree):
    one, two = "genimg_lib.top", "genimg_lib.late"
    assert provenance.source_hash([one, two]) == provenance.source_hash([two, one, one])


def test_a_module_that_is_named_or_handed_about_counts_whole(tree):
    for modules in (["genimg_lib.late"], ["genimg_lib.whole"]):
        (provenance.ROOT / "genimg_lib/whole.py").write_text(
            "from genimg_lib import late\n\ndef f(n):\n    return getattr(late, n)\n"
        )
        before = provenance.source_hash(modules)
        tree("genimg_lib/late.py", "x = 1", "x = True")  # equal values, different programs
        assert provenance.source_hash(modules) != before
        tree("genimg_lib/late.py", "x = 1", "x = 1")


def test_hash_is_the_same_in_every_python(tree):
    """Pinned: the canonical text must not depend on what `ast.dump` prints in this version."""
    assert provenance.source_hash(["genimg_lib.late"])[:16] == "c1155570ca6e89a8"


def test_is_stale(tree):
    block = {"modules": ["genimg_lib.top"], "source_sha256": provenance.source_hash(["genimg_lib.top"])}
    assert not provenance.is_stale(block)
    tree("genimg_lib/late.py", "return x\n\n", "return 3\n\n")
    assert provenance.is_stale(block)
    assert provenance.is_stale(block | {"modules": ["genimg_lib.gone"]})


@pytest.mark.parametrize("module", ["genimg_lib.missing", "numpy", "genimg_lib/top.py"])
def test_unknown_module(tree, module):
    with pytest.raises(ValueError, match=f"no module '{re.escape(module)}': expected a module of genimg_lib or bench"):
        provenance.source_hash([module])


def test_block():
    block = provenance.collect(
        command="genimg train vae-glyphs --steps 20", seed=3, data={"name": "glyphs"}, steps=20, seconds=1.26,
        modules=["genimg_lib.losses"],
    )  # fmt: skip
    text = json.dumps(block)
    assert json.loads(text) == block
    assert socket.gethostname() not in text and str(Path.home()) not in text and str(provenance.ROOT) not in text
    assert block["seconds"] == 1.3 and block["failed"] is None and not provenance.is_stale(block)
    assert block["versions"]["python"] == platform.python_version()
    assert set(block["versions"]) == {"python", "torch", "numpy", "genimg_lib"}


@pytest.mark.parametrize("command", ["genimg train x --out /home/me/out", "genimg train x --out=/home/me/out"])
def test_absolute_path_in_the_command(command):
    with pytest.raises(ValueError, match="names an absolute path"):
        provenance.collect(command=command, seed=0, data={}, steps=0, seconds=0, modules=[])


def test_hardware_names_the_processor_and_the_threads():
    import torch

    text = provenance.hardware()
    assert re.search(rf"\b{torch.get_num_threads()} threads?$", text.split(", NVIDIA")[0])
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and "model name" in cpuinfo.read_text():
        assert f"model name\t: {text.split(',')[0]}" in cpuinfo.read_text()


def test_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from genimg_lib import provenance, weights\n"
        "print(provenance.source_hash(['genimg_lib.training']), weights.names(), provenance.hardware())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)

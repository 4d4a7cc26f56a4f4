"""The parts of the book's extensions that can be tried without a build."""

import ast
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from docutils import nodes
from docutils.parsers.rst import DirectiveError

from book.ext import api_reference, chapters, equation_index, repository, results
from genimg_lib import provenance
from tools import katex

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("docname", "number"),
    [("notebooks/vae/03_evidence", 3), ("notebooks/using/21_x", 21), ("book/notation", None), ("notebooks/clinic", None)],
)
def test_chapter_number(docname, number):
    assert chapters.chapter_number(docname) == number


def test_claims_are_found_in_code():
    code = """
with torch.no_grad(), claim("eq-a", wrong="no half"):
    for x in y:
        agree(x, 1, not_=2)
    within_standard_errors(x, 1)
with claim("eq-b", wrong="sign"):
    checks.agree(f(agree), 3)
agree(4, 4)
"""
    first, second = equation_index.claims_in(code)
    assert (first.label, first.wrong, first.summary()) == ("eq-a", "no half", "1 exact, 1 statistical")
    assert (second.label, second.wrong, second.summary()) == ("eq-b", "sign", "1 exact")


def test_problems_with_claims():
    def claim(label):
        return equation_index.Claim(label, "", {"agree": 1})

    labels = {"eq-a": "three", "eq-b": "three", "def-c": "four", "odd": "four"}
    claims = [("three", claim("eq-a")), ("four", claim("eq-b")), ("four", claim("eq-b")), ("four", claim("eq-z"))]
    found = list(equation_index.problems(labels, claims))
    assert [place for place, _ in found] == ["four", "four", "four", "four", "four", "four"]
    words = " ".join(text for _, text in found)
    assert words.count("'eq-b'): this page has no equation") == 2  # it stands in three
    assert words.count("made 2 times") == 2 and "'eq-z'" in words and "label odd" in words
    assert not list(equation_index.problems({"eq-a": "three", "def-c": "four"}, [("three", claim("eq-a"))]))
    assert "eq-a is not checked" in next(equation_index.problems({"eq-a": "three"}, []))[1]


COLAB = "https://colab.research.google.com/github/org/book/blob/gh-pages/_sources/a/03_b.ipynb"


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://github.com/org/book", COLAB),
        ("https://github.com/org/book.git", COLAB),
        ("https://gitlab.com/org/book", None),
        ("https://github.com.example.org/org/book", None),
        ("file:///srv/book.git", None),
        ("", None),
    ],
)
def test_colab_opens_only_github(url, link):
    assert repository.colab_link(url, "a/03_b") == link


def result(seed: int, value: float, *, failed: str | None = None, modules_sha: str | None = None) -> dict:
    modules = ["genimg_lib.provenance"]
    sha = modules_sha or provenance.source_hash(modules)
    block = {"failed": failed, "seed": seed, "modules": modules, "source_sha256": sha, "hardware": "a core"}
    published = {"paper": "Burda", "table": "Table 1", "protocol": "3280 epochs", "value": 86.76}
    return {"method": "VAE", "nll": value, "protocol": "32 epochs.", "published": published, "provenance": block}


def test_a_row_averages_seeds_counts_failures_and_shows_the_gap():
    runs = [result(0, 88.0), result(1, 89.0), result(2, float("nan"), failed="NaN at step 7")]
    row = results.method_row(runs, "nll")
    assert row == ["VAE", "3", "88.50 (88.00 to 89.00)", "86.76", "+1.74", "seed 2 failed: NaN at step 7"]
    assert results.method_row(runs[2:], "nll")[2:5] == ["–", "86.76", "–"]
    del runs[0]["published"]
    assert results.method_row(runs[:1], "nll")[2:] == ["88.00", "–", "–", ""]


def test_a_result_of_changed_code_is_stale():
    assert "stale" in str(results.method_row([result(0, 88.0), result(1, 88.0, modules_sha="0" * 64)], "nll")[-1])


def test_each_note_is_made_once():
    lines = [node.astext() for node in results.notes([result(0, 88.0), result(1, 89.0)])]
    assert lines == ["Ours: 32 epochs.", "Published: Burda, Table 1: 3280 epochs.", "Hardware: a core."]


def test_speeds_show_median_range_and_shares():
    speeds = {"library": {"median": 91.25, "min": 90.0, "max": 92.0}}
    ratios = {"library / bare": {"median": 1.013, "min": 0.97, "max": 1.1}}
    timed = result(0, 0.0) | {"steps_per_second": speeds, "ratios": ratios, "where_time_goes": {"products": 0.7, "other": 0.3}}
    text = " ".join(node.astext() for node in results.speed_tables(timed))
    for part in ("91.25", "90 to 92", "library / bare", "0.97 to 1.1", "products 70%, other 30%"):
        assert part in text
    assert "stale" not in text


def test_signatures_keep_stars_defaults_and_nested_commas():
    code = (
        "def a_function_with_a_name(a, /, b: dict[str, int] = {'x': 1, 'y': 2}, *, c: Callable[[int, int], str]) -> None: ..."
    )
    tree = ast.parse(code).body[0]
    assert isinstance(tree, ast.FunctionDef)
    text = api_reference.signature(tree)
    parts = [line.strip().rstrip(",") for line in text.splitlines()[1:-1]]
    assert parts == ["a", "/", "b: dict[str, int]={'x': 1, 'y': 2}", "*", "c: Callable[[int, int], str]"]
    assert ast.unparse(ast.parse(text.replace(") -> None", ") -> None: ..."))) == ast.unparse(ast.parse(code))


def test_docstrings_keep_indented_lines_and_mark_code():
    tree = ast.parse('"""Use ``a`` or `b`.\n\nPlain\ntext.\n\nHead:\n    indented\n"""')
    first, second, third = api_reference.docstring(tree)
    assert [node.astext() for node in first.findall(nodes.literal)] == ["a", "b"]
    assert second.astext() == "Plain text." and isinstance(third, nodes.literal_block)


def test_every_public_function_of_the_library_says_something():
    silent = []
    for path in (ROOT / "genimg_lib").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                silent.append(f"{path.name}: {node.name}")
    assert not silent


def test_katex_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / katex.PACKAGE).write_bytes(b"altered")
    with pytest.raises(ValueError, match=r"has SHA-512 .*expected .*delete it"):
        katex.install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [katex.PACKAGE]  # nothing half made


def test_katex_is_installed_from_a_package_on_disc(tmp_path, monkeypatch):
    formats = {"woff2": "woff2", "woff": "woff", "ttf": "truetype"}
    css = "@font-face{src:" + ",".join(f'url(fonts/A.{end}) format("{name}")' for end, name in formats.items()) + "}"
    files = {"package/dist/katex.min.css": css.encode(), "package/dist/fonts/A.woff2": b"w", "package/dist/fonts/A.ttf": b"t"}
    with tarfile.open(tmp_path / katex.PACKAGE, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha512((tmp_path / katex.PACKAGE).read_bytes()).digest()
    monkeypatch.setattr(katex, "SHA512", katex.base64.b64encode(digest).decode())
    monkeypatch.setattr(katex, "fetch", lambda folder: pytest.fail("asked the network for a file that is on disc"))
    folder = katex.install(tmp_path) / "katex"
    assert [path.name for path in (folder / "fonts").iterdir()] == ["A.woff2"]
    assert (folder / "katex.min.css").read_text() == '@font-face{src:url(fonts/A.woff2) format("woff2")}'
    assert katex.install(tmp_path) == folder.parent  # the second time nothing is done


def test_macros_are_those_that_the_pages_use():
    macros = json.loads((ROOT / "book" / "macros.json").read_text())
    pages = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    unused = [name for name in macros if not re.search(re.escape(name) + r"(?![A-Za-z])", pages)]
    assert not unused


def test_measures_are_averaged_over_the_runs_that_did_not_fail():
    def run(method, seed, modes, quality, failure=None):
        block = {"seed": seed, "failed": failure, "modules": ["genimg_lib.plots"]}
        block["source_sha256"] = provenance.source_hash(block["modules"])
        return {"method": method, "modes": modes, "quality": quality, "provenance": block}

    methods = {
        "good": [run("good", 0, 8, 90.0), run("good", 1, 6, 80.0)],
        "bad": [run("bad", 0, 2, 50.0), run("bad", 1, 0, None, "NaN")],
        "broken": [run("broken", 0, 0, None, "NaN")],
    }
    assert results.measures_rows(methods, ["modes", "quality"]) == [
        ["broken", "1", "–", "–", "seed 0 failed: NaN"],
        ["bad", "2", "2.00", "50.00", "seed 1 failed: NaN"],
        ["good", "2", "7.00 (6.00 to 8.00)", "85.00 (80.00 to 90.00)", ""],
    ]


@pytest.mark.parametrize("options", [{}, {"measures": "modes"}, {"measures": "modes = of 8; = x"}])
def test_a_measures_table_without_its_measures_is_an_error(options):
    table = results.MeasuresTable("measures-table", ["no-such-experiment"], options, [], 1, 0, "", None, Mock())
    with pytest.raises(DirectiveError) as error:
        table.run()
    assert ":measures: KEY = WORDS" in error.value.msg


def test_a_results_table_without_its_metric_is_an_error_even_before_there_are_results():
    table = results.ResultsTable("results-table", ["no-such-experiment"], {"unit": "nats"}, [], 1, 0, "", None, Mock())
    with pytest.raises(DirectiveError) as error:
        table.run()
    assert ":metric:" in error.value.msg and ":unit:" not in error.value.msg

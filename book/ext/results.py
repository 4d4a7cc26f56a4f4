"""Tables of `bench/results/EXPERIMENT/*.json`: long runs beside published numbers, and measured speeds.

    {results-table} EXPERIMENT with `:metric: KEY` and `:unit: WORDS`: a row per method, published value and gap beside it
    {measures-table} EXPERIMENT with `:measures: KEY = WORDS; KEY = WORDS`: a row per method, a column per measure
    {speed-table} EXPERIMENT: medians and ranges of `steps_per_second`, `ratios`, and where the time goes

Runs of one method with several seeds become one row: the mean and the range. Failed runs are counted, not dropped. A result
whose library code has changed since (its source hash differs) is called stale.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from genimg_lib.provenance import is_stale

from .pages import table

Result = dict[str, Any]
Row = list[str | nodes.Node]
STALE = "stale: the code has changed since"


def over_seeds(values: list[float]) -> str:
    """One number, or mean and range: 86.80 (86.70 to 86.90)."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def method_row(runs: list[Result], metric: str) -> Row:
    """Method, runs, our value, the published one, the gap, remarks."""
    good = [run for run in runs if not failed(run)]
    ours = [float(run[metric]) for run in good]
    published = next((float(run["published"]["value"]) for run in runs if run.get("published")), None)
    gap = f"{mean(ours) - published:+.2f}" if ours and published is not None else "–"
    theirs = "–" if published is None else f"{published:.2f}"
    return [runs[0]["method"], str(len(runs)), over_seeds(ours) if ours else "–", theirs, gap, remarks(runs)]


def remarks(runs: list[Result]) -> str:
    """Failed runs, each with its reason, and whether the code has changed since."""
    words = [f"seed {run['provenance']['seed']} failed: {run['provenance']['failed']}" for run in runs if failed(run)]
    if any(is_stale(run["provenance"]) for run in runs):
        words.append(STALE)
    return "; ".join(words)


def failed(run: Result) -> bool:
    return run["provenance"]["failed"] is not None


def measures_rows(methods: dict[str, list[Result]], measures: list[str]) -> list[Row]:
    """Method, runs, each measure over the runs that did not fail, remarks; ascending by the first measure."""
    rows: list[tuple[list[float], Row]] = []
    for name, runs in methods.items():
        values = [[float(run[key]) for run in runs if not failed(run) and run[key] is not None] for key in measures]
        cells = [over_seeds(column) if column else "–" for column in values]
        order = [mean(column) if column else float("-inf") for column in values]
        rows.append((order, [name, str(len(runs)), *cells, remarks(runs)]))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def notes(results: list[Result]) -> list[nodes.Node]:
    """What was measured how, each said once: our protocol, the published ones, the hardware."""
    sources = [result["published"] for result in results if result.get("published")]
    lines = [
        *(f"Ours: {result['protocol']}" for result in results),
        *(f"Published: {source['paper']}, {source['table']}: {source['protocol']}." for source in sources),
        *(f"Hardware: {result['provenance']['hardware']}." for result in results),
    ]
    return [nodes.paragraph("", line) for line in dict.fromkeys(lines)]


def speed_tables(result: Result) -> list[nodes.Node]:
    """Two tables of medians and ranges, and a sentence on where a step's time goes."""
    content: list[nodes.Node] = []
    for key, head in (("steps_per_second", "steps per second"), ("ratios", "ratio")):
        rows: list[Row] = [
            [name, f"{row['median']:.4g}", f"{row['min']:.4g} to {row['max']:.4g}"] for name, row in result[key].items()
        ]
        content.append(table([head, "median", "range"], rows))
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in result["where_time_goes"].items())
    content.append(nodes.paragraph("", f"Where a step's time goes: {shares}."))
    if is_stale(result["provenance"]):
        content.append(nodes.paragraph("", f"This result is {STALE}."))
    return content


class FromResults(SphinxDirective):
    """Reads the experiment's files, and says how to make them where there are none."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir, "bench", "results", self.arguments[0])
        paths = sorted(folder.glob("*.json"))
        for path in [folder, *paths]:
            self.env.note_dependency(str(path))
        if not paths:
            return [nodes.paragraph("", f"No results yet: make bench writes them to bench/results/{self.arguments[0]}/.")]
        results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return [*self.render(results), *notes(results)]

    def render(self, results: list[Result]) -> list[nodes.Node]:
        raise NotImplementedError


class ResultsTable(FromResults):
    option_spec: ClassVar = {"metric": directives.unchanged_required, "unit": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        missing = [name for name in self.option_spec if name not in self.options]
        if missing:  # said also while there are no results yet
            raise self.error(f"results-table {self.arguments[0]}: give {' and '.join(f':{name}:' for name in missing)}")
        return super().run()

    def render(self, results: list[Result]) -> list[nodes.Node]:
        methods = list(dict.fromkeys(result["method"] for result in results))
        metric = self.options["metric"]
        rows = [method_row([run for run in results if run["method"] == name], metric) for name in methods]
        return [table(["method", "runs", f"ours, {self.options['unit']}", "published", "gap", "remarks"], rows)]


class MeasuresTable(FromResults):
    option_spec: ClassVar = {"measures": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        pairs = [part.partition("=") for part in self.options.get("measures", "").split(";")]
        self.measures = {key.strip(): words.strip() for key, _, words in pairs}
        if not all(key and words for key, words in self.measures.items()):
            raise self.error(f"measures-table {self.arguments[0]}: give `:measures: KEY = WORDS; KEY = WORDS`")
        return super().run()

    def render(self, results: list[Result]) -> list[nodes.Node]:
        methods: dict[str, list[Result]] = {}
        for result in results:
            methods.setdefault(result["method"], []).append(result)
        head = ["method", "runs", *self.measures.values(), "remarks"]
        return [table(head, measures_rows(methods, list(self.measures)))]


class SpeedTable(FromResults):
    def render(self, results: list[Result]) -> list[nodes.Node]:
        return [node for result in results for node in speed_tables(result)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("results-table", ResultsTable)
    app.add_directive("measures-table", MeasuresTable)
    app.add_directive("speed-table", SpeedTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

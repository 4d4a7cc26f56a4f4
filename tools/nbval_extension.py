"""Makes nbval strict: `pytest --nbval notebooks` re-runs every notebook and compares what a reader sees.

nbval by itself compares no figures, no numbers within a tolerance, and nothing in a notebook whose outputs were cleared.
This pytest plugin (loaded by conftest.py) compares all outputs (tools/stored_outputs.py), requires that every code cell
ran in order and that stored outputs hold nothing volatile, heeds no tag or comment that switches a comparison off, and
adds to each notebook a last test, `limits`: processor time and peak memory. Kernels are those of the running Python,
with one thread each.
"""

import os
from collections.abc import Iterator
from typing import Any

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from tools.execute import CELL_TIMEOUT, KERNEL_ENVIRONMENT, PeakMemory, core_seconds, kernel_pid, sockets
from tools.stored_outputs import cell_problems, differences, tolerance_of

MAX_CORE_SECONDS = 180
MAX_PEAK_MB = 2_000


def pytest_configure(config: pytest.Config) -> None:
    """One thread and a fixed hash seed for the kernels, this interpreter, a timeout; and our comparison in nbval's place."""
    os.environ.update(KERNEL_ENVIRONMENT)
    config.option.nbval_current_env = True
    config.option.nbval_cell_timeout = CELL_TIMEOUT
    IPyNbCell.compare_outputs = compare_outputs
    RunningKernel.execute_cell_input = execute_with_history
    RunningKernel.__init__ = started_at_last(RunningKernel.__init__)
    nbval.kernel.KernelManager = lambda **options: KernelManager(**sockets(), **options)
    IPyNbFile.collect = collect_with_limits(IPyNbFile.collect)


def started_at_last(start: Any, attempts: int = 3) -> Any:
    """nbval's start of a kernel, tried again: one that did not come up on a busy machine says nothing of a notebook."""

    def patient(self: RunningKernel, *args: Any, **options: Any) -> None:
        for left in reversed(range(attempts)):
            try:
                return start(self, *args, **options)
            except RuntimeError:  # did not answer within nbval's 60 s, or died
                if not left:
                    raise

    return patient


def execute_with_history(self: RunningKernel, cell_input: str, allow_stdin: bool | None = None) -> str:
    """As JupyterLab does; without a history IPython overlooks the semicolon that silences a line."""
    return str(self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False))


def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare: Any = None) -> bool:
    """nbval calls this with the outputs of the run and the stored ones; False fails the cell with `comparison_traceback`."""
    self.comparison_traceback = differences(ref, test, tolerance_of(self.cell))
    return not self.comparison_traceback


def collect_with_limits(collect: Any) -> Any:
    """nbval's `collect`, with a last item that holds the whole notebook to its limits."""

    def collected(self: IPyNbFile) -> Iterator[pytest.Item]:
        cells = list(collect(self))
        for cell in cells:
            cell.options = {"check": True, "skip": False, "check_exception": False}
            cell.output_timeout = 60  # seconds that the outputs may lag behind the end of a cell, on a busy machine
        yield from cells
        if cells:
            yield Limits.from_parent(self, name="limits")

    return collected


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Before a cell runs: is what is stored fit to be compared with?"""
    if not isinstance(item, IPyNbCell):
        return
    if not hasattr(item.parent, "peak_memory"):
        item.parent.peak_memory = PeakMemory(kernel_pid(item.parent.kernel.km))
    faults = list(cell_problems(item.cell))
    if item.cell.execution_count != item.cell_num + 1:
        faults.append(f"execution count {item.cell.execution_count}, not {item.cell_num + 1}: run `make execute`")
    try:
        tolerance_of(item.cell)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        pytest.fail("\n".join(["what this cell stores cannot stand:", *faults]), pytrace=False)


class Limits(pytest.Item):
    """The last test of a notebook: what its kernel took from start to here."""

    def runtest(self) -> None:
        memory = getattr(self.parent, "peak_memory", None)
        if memory is None:
            pytest.fail("no cell of this notebook ran, so nothing was measured: run the whole file", pytrace=False)
        seconds, peak_mb = core_seconds(memory.pid), memory.stop()
        assert seconds <= MAX_CORE_SECONDS, (
            f"the notebook took {seconds:.0f} s of processor time; {MAX_CORE_SECONDS} are allowed"
        )
        assert peak_mb <= MAX_PEAK_MB, f"the notebook took {peak_mb:.0f} MB of memory; {MAX_PEAK_MB} are allowed"

    def reportinfo(self) -> tuple[Any, int, str]:
        return self.path, 0, f"{self.path.name}::limits"

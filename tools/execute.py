"""Run notebooks on one thread, store their outputs, and record what the run took in book/running_times.json.

    make execute NB=notebooks/vae/03_evidence_lower_bound.ipynb     (without NB: every notebook, one after the other)

Seconds are those of the processor: with one thread, what a reader waits where nothing else runs, however busy this
machine is. A notebook is written only if every cell ran and its outputs may be stored: no stderr, paths, addresses,
progress bars or timings.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.stored_outputs import output_problems  # noqa: E402
from tools.text_notebook import METADATA  # noqa: E402

RUNNING_TIMES = ROOT / "book" / "running_times.json"
CELL_TIMEOUT = 170  # seconds
# One thread: on shared cores two threads per process are slower than one, and sums then have one order.
KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
_SOCKETS = tempfile.TemporaryDirectory(prefix="kernels-")  # removed when this process ends


class PeakMemory:
    """The largest resident memory of a process and its children, in MB, watched from a thread until `stop`."""

    def __init__(self, pid: int, interval: float = 0.25) -> None:
        self.pid, self.interval, self.peak = pid, interval, 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self._sample()

    def _sample(self) -> None:
        try:
            process = psutil.Process(self.pid)
            family = [process, *process.children(recursive=True)]
            together = sum(member.memory_info().rss for member in family) / 1e6
            self.peak = max(self.peak, together, _high_water_mb(self.pid))
        except psutil.NoSuchProcess:
            pass  # the process, or a child, ended between two looks

    def stop(self) -> float:
        """End the watch, while the process still lives, and return the peak in MB."""
        self._done.set()
        self._thread.join()
        self._sample()
        return self.peak


def _high_water_mb(pid: int) -> float:
    """The peak that Linux keeps for the process itself, which no sampling can miss; 0 on other systems."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    lines = [line.split() for line in status.read_text().splitlines()]
    return next((int(line[1]) * 1024 / 1e6 for line in lines if line and line[0] == "VmHWM:"), 0.0)


def core_seconds(pid: int) -> float:
    """The processor time that a process and its ended children have taken so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def source_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the text of the code cells: it tells whether a measured time belongs to this text."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def cpu_model() -> str:
    """The name of the processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def sockets() -> dict[str, str]:
    """Options of a kernel manager: talk over files of its own, not over TCP ports.

    A port is chosen first and bound by the kernel a second later; on a busy machine another process may take it in between,
    and the kernel dies. Windows has no such sockets, and keeps the ports.
    """
    if os.name == "nt":
        return {}
    name = f"{_SOCKETS.name}/{uuid.uuid4().hex[:8]}"
    return {"transport": "ipc", "ip": name, "connection_file": f"{name}.json"}


class _ThisPython(AsyncKernelManager):
    """Starts kernels of the running interpreter, whatever kernels are installed on the machine."""

    def __init__(self, **options: object) -> None:
        super().__init__(kernel_spec_manager=NbvalKernelspecManager(), **sockets(), **options)


def run(
    notebook: NotebookNode, folder: Path, *, environment: dict[str, str] | None = None, allow_errors: bool = False
) -> tuple[float, float]:
    """Execute `notebook` in place, in a fresh kernel of this Python, in `folder`; returns (core seconds, peak MB)."""
    client = NotebookClient(
        notebook,
        kernel_manager_class=_ThisPython,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        timeout=CELL_TIMEOUT,
        allow_errors=allow_errors,
        record_timing=False,
        coalesce_streams=True,
    )
    variables = os.environ | KERNEL_ENVIRONMENT | (environment or {})
    with client.setup_kernel(env=variables, cwd=str(folder), stderr=subprocess.DEVNULL):
        watch = PeakMemory(kernel_pid(client.km))
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        return core_seconds(watch.pid), watch.stop()


def kernel_pid(manager: Any) -> int:
    """The process id of the local kernel that a jupyter_client kernel manager runs."""
    return int(manager.provisioner.pid)


def notebook_paths(root: Path = ROOT) -> list[Path]:
    """Every notebook under notebooks/, in order; JupyterLab's hidden copies aside."""
    paths = (root / "notebooks").rglob("*.ipynb")
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))


def tidy(notebook: NotebookNode) -> None:
    """Drop what changes from run to run or from version to version and says nothing to a reader."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.pop("transient", None)


def execute(path: Path, running_times: Path = RUNNING_TIMES, root: Path = ROOT) -> dict:
    """Execute the notebook at `path`, store it and its entry in `running_times`; returns the entry.

    Raises ValueError or nbclient's error, before anything is written, if a cell fails or an output may not be stored.
    """
    path = path.resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{path} lies outside {root}: give a notebook of this repository")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    seconds, peak_mb = run(notebook, path.parent)
    tidy(notebook)
    problems = output_problems(notebook)
    if problems:
        faults = "\n  ".join(problems)
        raise ValueError(f"these outputs may not be stored; change the cells that print them:\n  {faults}")
    entry = {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak_mb),
        "threads": 1,
        "hardware": cpu_model(),
        "source_hash": source_hash(notebook),
    }
    write_atomically(path, nbformat.writes(notebook) + "\n")
    times = json.loads(running_times.read_text()) if running_times.exists() else {}
    times[path.relative_to(root).as_posix()] = entry
    write_atomically(running_times, json.dumps(times, indent=2, sort_keys=True) + "\n")
    return entry


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path` and rename, so that `path` is at every moment either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(path.name + ".part")
    try:
        half_written.write_text(text, encoding="utf-8")
        os.replace(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook under notebooks/")
    chosen = parser.parse_args().notebooks or notebook_paths()
    for path in chosen:
        try:
            entry = execute(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError, OSError, ValueError) as error:
            sys.exit(f"{path}: not stored, the file is as it was.\n{error}")
        print(f"{path}: {entry['seconds']} s, {entry['peak_mb']} MB")


if __name__ == "__main__":
    main()

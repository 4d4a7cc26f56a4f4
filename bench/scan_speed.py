"""The linear recurrence step by step and by doubling, forward and backward, on one core: milliseconds of processor time.

    python -m bench.scan_speed [--again]     # --again: measure although the result file is present

Rounds alternate, and the median is kept. Time is the thread's own, so that another process costs a measurement little.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genimg_lib import checkpoints, provenance
from genimg_lib.networks.recurrent import scan

RESULTS = Path("bench/results/scan-speed")
SHAPES = [(1, 784, 1), (1, 784, 32), (8, 784, 32), (32, 784, 32), (32, 28, 32)]  # sequences, steps, units
ROUNDS, SEED = 15, 0
PROTOCOL = (
    "h_t = a_t h_{t-1} + b_t and the gradients by a and b, float32, one thread; medians of 15 alternating rounds. Both use "
    "the same backward rule, so only the order of the arithmetic differs."
)


def milliseconds(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, parallel: bool) -> float:
    """Processor time of one forward and backward pass."""
    start = time.thread_time()
    torch.autograd.grad((weight * scan(a, b, parallel=parallel)).sum(), [a, b])
    return 1_000 * (time.thread_time() - start)


def result(B: int, T: int, H: int) -> dict[str, Any]:
    """One shape: medians, their ratio, and where they come from."""
    generator = torch.Generator().manual_seed(SEED)
    a = torch.rand(B, T, H, generator=generator).requires_grad_()
    b, weight = (torch.randn(B, T, H, generator=generator).requires_grad_(k == 0) for k in range(2))
    begin = time.perf_counter()
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(ROUNDS + 2):
        for parallel in (True, False):
            spent = milliseconds(a, b, weight, parallel)
            if number >= 2:  # the first two warm up
                times[parallel].append(spent)
    doubling, loop = (statistics.median(times[parallel]) for parallel in (True, False))
    return {
        "experiment": "scan-speed",
        "method": f"{B} sequence{'s' * (B > 1)}, {T} steps, {H} unit{'s' * (H > 1)}",
        "loop_ms": round(loop, 3),
        "doubling_ms": round(doubling, 3),
        "loop_over_doubling": round(loop / doubling, 3),
        "protocol": PROTOCOL,
        "provenance": provenance.collect(
            command="python -m bench.scan_speed",
            seed=SEED,
            data={"name": "random numbers"},
            steps=ROUNDS,
            seconds=time.perf_counter() - begin,
            modules=["bench.scan_speed"],
        ),
    }


def main(arguments: list[str]) -> None:
    """Nothing, or `--again`."""
    torch.set_num_threads(1)
    if arguments not in ([], ["--again"]):
        raise SystemExit(f"expected nothing or --again, got {' '.join(arguments)}")
    for B, T, H in SHAPES:
        path = RESULTS / f"b{B}-t{T}-h{H}-seed{SEED}.json"
        if path.exists() and not arguments:
            print(f"{path} is present: skipped")
        else:
            checkpoints.write_atomically(path, (json.dumps(result(B, T, H), indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])

"""bench.sweep, past its longest sequences: adding with the minGRU, which 1,440 steps did not break, up to 23,040.

    python -m bench.sweep_longer

Everything but the lengths is bench.sweep's. A length that is done is kept; with all result files present the run is skipped.
"""

import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench import sweep
from genimg_lib import checkpoints, provenance

RESULTS = Path("bench/results/sweep-longer")
WORK = Path("runs/sweep/longer-adding-mingru.json")
LENGTHS = (2880, 5760, 11_520, 23_040)
CONFIG = replace(sweep.Config("adding", "mingru"), test_batch=20)  # fewer at a time: long sequences take memory


def carried_on(config: sweep.Config) -> dict[str, Any]:
    """Shares of the trivial loss by length, and the seconds, until all seeds break. Takes up what is done."""
    fresh: dict[str, Any] = {"code": provenance.source_hash(["bench.sweep_longer"]), "shares": {}, "seconds": 0.0}
    done = json.loads(WORK.read_text()) if WORK.exists() else fresh
    done = done if done["code"] == fresh["code"] else fresh
    for T in LENGTHS:
        if str(T) not in done["shares"]:
            begun = time.perf_counter()
            done["shares"][str(T)] = [round(share, 5) for share in sweep.train(config, T).tolist()]
            done["seconds"] += time.perf_counter() - begun
            checkpoints.write_atomically(WORK, json.dumps(done).encode())
            print(T, done["shares"][str(T)], file=sys.stderr, flush=True)
        if sweep.all_broken(done["shares"][str(T)]):
            break
    return done


def results(config: sweep.Config) -> dict[int, dict[str, Any]]:
    """The result of each seed."""
    done = carried_on(config)
    shares = {int(T): values for T, values in done["shares"].items()}
    found = {}
    for place, seed in enumerate(config.seeds):
        own = {T: values[place] for T, values in shares.items()}
        found[seed] = {
            "experiment": "sweep-longer",
            "method": sweep.METHODS[config.method],
            "config": asdict(config) | {"lr": config.lr, "updates": config.updates},
            "shares": {str(T): share if math.isfinite(share) else None for T, share in own.items()},
            "longest_solved": max((T for T, share in own.items() if share < sweep.SOLVED), default=None),
            "all_broken_at": min((T for T, values in shares.items() if sweep.all_broken(values)), default=None),
            "longest_run": max(own),
            "protocol": sweep.PROTOCOL,
            "published": None,
            "provenance": provenance.collect(
                command="python -m bench.sweep_longer",
                seed=seed,
                data={"name": "adding, made", "T": sorted(own)},
                steps=config.updates * len(own),
                seconds=done["seconds"] / len(config.seeds),  # each one's share
                modules=["bench.sweep_longer"],
                failed=None if all(map(math.isfinite, own.values())) else "not finite",
            ),
        }
    return found


def main(arguments: list[str]) -> None:
    """No arguments."""
    torch.set_num_threads(1)
    if arguments:
        raise SystemExit(f"expected no arguments, got {' '.join(arguments)}")
    paths = {seed: RESULTS / f"{CONFIG.method}-seed{seed}.json" for seed in CONFIG.seeds}
    if all(path.exists() for path in paths.values()):
        print(f"{RESULTS}/{CONFIG.method}-seed*.json are present: skipped")
        return
    for seed, result in results(CONFIG).items():
        checkpoints.write_atomically(paths[seed], (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])

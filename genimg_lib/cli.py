"""The command line: `genimg train RECIPE [--field value …] [--out DIR] [--resume]`, or `python -m genimg_lib …`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from . import recipes

USAGE = """usage: genimg train RECIPE [--field value ...] [--out DIR] [--resume]

recipes (genimg train RECIPE --help lists the fields):
"""


def usage() -> str:
    """What the command can do, with the first line of each recipe's description."""
    width = max(map(len, recipes.RECIPES))
    lines = (f"  {name:{width}} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in sorted(recipes.RECIPES.items()))
    return USAGE + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong is one line on stderr and exit status 1 (2: the command itself was wrong)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[-1] in ("-h", "--help") and words[:-1] in ([], ["train"])):
        print(usage())
        return
    if words[0] != "train" or len(words) < 2 or words[1].startswith("-"):
        given = " ".join(["genimg", *words])
        print(f"{given}: expected genimg train RECIPE\n\n{usage()}", file=sys.stderr)
        raise SystemExit(2)
    try:
        recipe = recipes.find(words[1])
    except ValueError as error:
        print(f"genimg: {error}", file=sys.stderr)
        raise SystemExit(2) from None

    def train(
        recipe: Annotated[recipe, tyro.conf.arg(name="")],  # type: ignore[valid-type]
        out: Path = Path("runs"),
        resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    ) -> None:
        """Train a recipe; write its weights, its provenance and its checkpoints.

        Args:
            recipe: what to train.
            out: the directory for OUT/RECIPE.safetensors, OUT/RECIPE.json and the checkpoints in OUT/RECIPE.
            resume: go on from the last checkpoint.
        """
        print(recipe.run(out, resume))  # type: ignore[attr-defined]

    try:
        tyro.cli(train, args=words[2:], prog=f"genimg train {words[1]}")
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        print(f"genimg: {error}", file=sys.stderr)
        raise SystemExit(1) from None

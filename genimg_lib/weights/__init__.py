"""Small trained weights that are installed with the library: NAME.safetensors, and NAME.json with where they come from."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # the site reads `provenance` without torch
    from torch import nn

Model = TypeVar("Model", bound="nn.Module")
DIRECTORY = Path(__file__).resolve().parent
MAX_BYTES = 1_000_000


def names() -> list[str]:
    """The weights that are shipped."""
    return sorted(path.stem for path in DIRECTORY.glob("*.safetensors"))


def provenance(name: str) -> dict[str, Any]:
    """Command, seed, data, steps, hardware, versions, source hash and score of one weight file. ValueError if unknown."""
    if name not in names():
        near = get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names()) or '(none are shipped)'}"
        raise ValueError(f"no weights are called {name!r}: {hint}")
    return json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))


def load(name: str, model: Model) -> Model:
    """Fill `model` with the weights `name`, in place, and set it to evaluation; returns it.

    Raises ValueError for an unknown name, a file that is not the one described beside it, or a model of other shapes.
    """
    from safetensors.torch import load as parse_tensors

    from genimg_lib.checkpoints import CheckpointError, check_same_shapes

    expected = provenance(name)["weights_sha256"]
    content = (DIRECTORY / f"{name}.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{name}.safetensors is truncated or altered: its SHA-256 is not that of {name}.json; reinstall it")
    tensors = parse_tensors(content)
    try:
        check_same_shapes(tensors, model.state_dict(), name)
    except CheckpointError as error:
        raise ValueError(f"the weights {name!r} do not fit this model: {error}") from error
    model.load_state_dict(tensors)
    return model.eval()


def store(name: str, model: nn.Module, block: dict[str, Any], score: dict[str, Any], directory: Path = DIRECTORY) -> Path:
    """Write a trained model's weights and their provenance block (`provenance.collect`), each file whole or not at all.

    score: what a test reproduces, such as {"negative_elbo_nats": 93.1, "how": "…"}. Raises ValueError above `MAX_BYTES` for
    weights that are to ship, those of the default directory.
    """
    from safetensors.torch import save as serialize_tensors

    from genimg_lib.checkpoints import write_atomically

    content = serialize_tensors({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()})
    if directory == DIRECTORY and len(content) > MAX_BYTES:
        raise ValueError(f"{name} takes {len(content):,} bytes: weights that ship have at most {MAX_BYTES:,}; make it smaller")
    described = block | {"score": score, "weights_sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(directory / f"{name}.safetensors", content)
    write_atomically(directory / f"{name}.json", (json.dumps(described, indent=1) + "\n").encode())
    return directory / f"{name}.safetensors"

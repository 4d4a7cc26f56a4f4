"""Checkpoints that survive a killed process and a full disk: one safetensors file each, written whole or not at all.

`accelerate.save_state` pickles the optimiser and the random states; here nothing is ever unpickled. A file holds tensors,
and beside them the rest of the state as JSON, with a SHA-256 over both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor

_NAME = re.compile(r"step-(\d{9})\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not the one that was asked for."""


def pack(value: Any, tensors: dict[str, Tensor], name: str = "state") -> Any:
    """Nested dicts, lists, tuples and plain values as JSON; each tensor goes to `tensors` and leaves its name behind."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs, because JSON would turn integer keys into text
        return {"dict": [[key, pack(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save {name}: {type(value).__name__}; expected tensors, dicts, lists, numbers, text or None")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over the JSON text and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name, force it to the disk, then rename: `path` holds the old content or the new, never a part.

    Raises CheckpointError if the disk is full or cannot be written to; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # the rename itself must reach the disk before older files are pruned
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path} ({len(content) / 1e6:.1f} MB): {error.strerror}. Nothing saved before is lost; "
            "free space or choose another directory, then resume"
        ) from error


def save(path: str | Path, state: Mapping[str, Any], *, recipe: str) -> Path:
    """Write `state` (nested dicts, lists and tuples of tensors and plain values) to `path`, whole or not at all.

    `recipe` names what is being trained; `load` refuses the file to any other. Raises CheckpointError if it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"recipe": recipe, "state": pack(state, tensors)})
    metadata = {"json": text, "sha256": _digest(tensors, text)}
    write_atomically(Path(path), serialize_tensors(tensors, metadata))
    return Path(path)


def load(path: str | Path, *, recipe: str) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU. Raises CheckpointError for a missing, truncated, altered or foreign file."""
    path = Path(path)
    advice = "delete it and resume from an earlier one, or start again"
    try:
        content = path.read_bytes()
        tensors = parse_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        text, expected = header["json"], header["sha256"]
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or no checkpoint of this library ({error}): {advice}") from error
    if _digest(tensors, text) != expected:
        raise CheckpointError(f"{path} was altered after it was written (its SHA-256 differs): {advice}")
    saved = json.loads(text)
    if saved["recipe"] != recipe:
        raise CheckpointError(f"{path} belongs to {saved['recipe']!r}, expected {recipe!r}: choose another directory")
    return unpack(saved["state"], tensors)


def check_same_shapes(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Raises CheckpointError, naming the first difference, unless both state dicts hold the same entries, shapes and types."""
    for key in sorted(saved.keys() | expected.keys()):
        given, wanted = (
            f"{tuple(entries[key].shape)} {entries[key].dtype}" if key in entries else "nothing"
            for entries in (saved, expected)
        )
        if given != wanted:
            raise CheckpointError(
                f"the checkpoint is of another model: {name}.{key} is {given} in the file, {wanted} in the model; "
                "build the model as it was trained, or choose another directory"
            )


def step_path(directory: str | Path, step: int) -> Path:
    """Where the checkpoint of this step stands."""
    return Path(directory) / f"step-{step:09d}.safetensors"


def saved_steps(directory: str | Path) -> list[int]:
    """Steps of the checkpoints in a directory, earliest first; empty if there is none."""
    directory = Path(directory)
    names = (_NAME.fullmatch(path.name) for path in directory.iterdir()) if directory.is_dir() else ()
    return sorted(int(match[1]) for match in names if match)


def latest(directory: str | Path) -> Path | None:
    """The checkpoint of the largest step, or None."""
    steps = saved_steps(directory)
    return step_path(directory, steps[-1]) if steps else None


def prune(directory: str | Path, keep: int) -> None:
    """Remove all but the `keep` latest checkpoints. Call it only after a new one is safe."""
    for step in saved_steps(directory)[:-keep]:
        step_path(directory, step).unlink(missing_ok=True)

"""Readers of the IDX and CIFAR-10 binary formats; they reject what is truncated, altered or malformed."""

import gzip
import math
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes


def read_idx(path: Path, ndim: int) -> Tensor:
    """A gzipped IDX file of unsigned bytes with ndim dimensions, as uint8.

    Header: 0, 0, type (8: unsigned byte), ndim, then each dimension as a big-endian 32-bit integer.
    Raises ValueError that names the file and what is wrong.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, 8, ndim)) or len(header) < 4 + 4 * ndim:
                raise ValueError(f"{path}: expected an IDX header 0 0 8 {ndim}, got bytes {list(header[:4])}")
            shape = struct.unpack(f">{ndim}I", header[4:])
            data = file.read(min(math.prod(shape), 2**31) + 1)  # one more than there should be
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or altered gzip file ({error}); get it again") from None
    if len(data) != math.prod(shape) or not data:
        more = "more" if len(data) > math.prod(shape) else f"{len(data)}"
        raise ValueError(f"{path}: header promises {shape}, that is {math.prod(shape)} bytes, file holds {more}")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def read_cifar(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """images uint8 (N, 3, 32, 32) and labels int64 (N,) of the binary version's archive, read without unpacking.

    Raises ValueError that names the file and what is wrong.
    """
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    parts = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in names:
                member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise ValueError(f"{path}: {name} is not a plain file")
                parts.append(member.read())
    except KeyError:
        raise ValueError(f"{path}: no cifar-10-batches-bin/{name} in it; expected CIFAR-10's binary version") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or altered archive ({error}); get it again") from None
    for name, data in zip(names, parts, strict=True):
        if not data or len(data) % CIFAR_RECORD:
            raise ValueError(f"{path}: {name} holds {len(data)} bytes, expected a multiple of {CIFAR_RECORD}")
    records = torch.from_numpy(np.frombuffer(b"".join(parts), np.uint8).reshape(-1, CIFAR_RECORD).copy())
    labels = records[:, 0].long()
    if int(labels.max()) > 9:
        raise ValueError(f"{path}: label {int(labels.max())}, expected 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32).clone(), labels

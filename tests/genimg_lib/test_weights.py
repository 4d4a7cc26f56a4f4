"""Shipped weights: each file is the one described, small, loads strictly; what is wrong says so."""

import hashlib
import json

import pytest
import torch
from torch import nn

from genimg_lib import provenance, weights

BLOCK = {"command": "genimg train toy", "steps": 1}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A directory that holds one weight file, `toy`, of a Linear(3, 2)."""
    monkeypatch.setattr(weights, "DIRECTORY", tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    weights.store("toy", model, BLOCK, {"loss": 1.5}, tmp_path)
    return tmp_path, model


def test_there_and_back(shelf):
    _, model = shelf
    other = nn.Linear(3, 2).train()
    assert weights.load("toy", other) is other and not other.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert weights.names() == ["toy"]
    assert weights.provenance("toy")["score"] == {"loss": 1.5} and weights.provenance("toy")["steps"] == 1


def test_unknown_name_suggests_the_nearest(shelf):
    with pytest.raises(ValueError, match="no weights are called 'toi': did you mean 'toy'"):
        weights.load("toi", nn.Linear(3, 2))
    with pytest.raises(ValueError, match="no weights are called 'vae-glyphs': expected one of toy"):
        weights.provenance("vae-glyphs")


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Linear(3, 2, bias=False), nn.Linear(3, 2).double()])
def test_another_model(shelf, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"the weights 'toy' do not fit this model: .*toy\.\w+ is .* in the file"):
        weights.load("toy", model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: content[:-1] + bytes([content[-1] ^ 1])])
def test_damaged_file(shelf, damage):
    directory, _ = shelf
    path = directory / "toy.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"toy\.safetensors is truncated or altered"):
        weights.load("toy", nn.Linear(3, 2))


def test_too_large_to_ship(shelf, monkeypatch):
    directory, _ = shelf
    with pytest.raises(ValueError, match=r"big takes 1,0.* bytes: weights that ship have at most 1,000,000"):
        weights.store("big", nn.Linear(500, 500), BLOCK, {}, directory)
    assert weights.names() == ["toy"]


@pytest.mark.parametrize("name", weights.names())
def test_every_shipped_file_is_described(name):
    block = weights.provenance(name)
    path = weights.DIRECTORY / f"{name}.safetensors"
    assert path.stat().st_size <= weights.MAX_BYTES
    assert hashlib.sha256(path.read_bytes()).hexdigest() == block["weights_sha256"]
    assert block["command"].startswith(f"genimg train {name}") and block["failed"] is None and block["score"]
    for module in block["modules"]:
        provenance.source_hash([module])  # exists
    assert "/home" not in json.dumps(block) and "/root" not in json.dumps(block)

"""The command line: a real run, and one clear line for what is wrong."""

import json
import subprocess
import sys

import pytest

from genimg_lib import cli, datasets, recipes


def test_trains_and_prints_where_the_weights_are(tmp_path, monkeypatch, capsys):
    few = datasets.load("glyphs", n=40)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: few)
    cli.main(["train", "vae-glyphs", "--steps", "3", "--hidden", "4", "3", "--batch-size", "20", "--out", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "vae-glyphs.safetensors")
    block = json.loads((tmp_path / "vae-glyphs.json").read_text())
    assert block["command"] == "genimg train vae-glyphs --steps 3 --batch-size 20 --hidden 4 3"
    assert str(tmp_path) not in json.dumps(block)


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "genimg_lib", "train"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("genimg train: expected genimg train RECIPE")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train", "vae-glyps"], 2, "no recipe is called 'vae-glyps': did you mean 'vae-glyphs'?"),
        (["train"], 2, "genimg train: expected genimg train RECIPE"),
        (["sing", "vae-glyphs"], 2, "genimg sing vae-glyphs: expected genimg train RECIPE"),
        (["train", "vae-glyphs", "--stepz", "3"], 2, "--stepz"),
        (["train", "vae-glyphs", "--steps", "many"], 2, "many"),
        (["train", "vae-glyphs", "--resume", "--out", "nowhere"], 1, "genimg: nothing to resume"),
    ],
)
def test_what_is_wrong_is_said(words, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == status and message in capsys.readouterr().err


def test_fields_reach_the_recipe(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(recipes.IWAEMnist, "run", lambda self, out, resume: seen.append((self, out, resume)))
    cli.main(["train", "iwae-mnist", "--k", "50", "--lr", "0.01", "--out", str(tmp_path), "--resume"])
    assert seen == [(recipes.IWAEMnist(k=50, lr=0.01), tmp_path, True)]


@pytest.mark.parametrize("words", [[], ["--help"], ["train", "--help"], ["train", "-h"]])
def test_help_lists_every_recipe(capsys, words):
    cli.main(words)
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in recipes.RECIPES)

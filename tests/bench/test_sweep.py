"""Chapter 14's sweep, carried on: the cells are PyTorch's and the chapter's, it stops where all seeds break, it is resumed."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from torch import nn

from bench import sweep, sweep_longer
from genimg_lib.networks.recurrent import DiagonalLinear, MinGRU

close = torch.testing.assert_close
CHAPTER = Path("notebooks/rnn/14_gates.ipynb")


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sweep, "WORK", tmp_path / "runs")


def layer_of(config: sweep.Config, steps: int) -> nn.Module:
    layer, _, _ = sweep.recurrence(config, 10, steps)
    assert isinstance(layer, DiagonalLinear | MinGRU)
    return layer


@pytest.mark.parametrize(("method", "kind"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_cells_are_torchs(method, kind):
    config = sweep.Config("adding", method, seeds=(3, 4), hidden=5)
    parameters = sweep.start(config, 2, 10)
    x = torch.randn(2, 3, 7, 2)
    states = sweep.run_cell(method, parameters, x)
    for place in range(2):
        U, W, b, *rest = (p.detach()[place] for p in parameters)
        theirs = kind(2, 5, batch_first=True)
        inner = torch.zeros_like(b[0])
        if method == "gru":
            inner[10:] = rest[0][0]
        for name, value in (("weight_ih_l0", U.T), ("weight_hh_l0", W.T), ("bias_ih_l0", b[0]), ("bias_hh_l0", inner)):
            getattr(theirs, name).data = value.clone()
        close(states[place], theirs(x[place])[0], rtol=1e-4, atol=1e-6)


def test_copying_sequences():
    x, y = sweep.copying(4, (2, 50), torch.Generator().manual_seed(0))
    assert x.shape == (2, 50, 10, 10) and y.shape == (2, 50, 10) and (x.sum(-1) == 1).all()
    said = x.argmax(-1)
    assert torch.equal(said[..., :3], y[..., -3:]) and (y[..., :-3] == 8).all() and (y[..., -3:] < 8).all()
    assert (said[..., 3:6] == 8).all() and (said[..., 6] == 9).all() and (said[..., 7:] == 8).all()


@pytest.mark.parametrize(("task", "steps"), [("adding", 40), ("copying", 46)])
def test_the_trivial_answer_has_the_trivial_loss(task, steps):
    config = sweep.Config(task, "gru")
    assert config.steps(40) == steps
    rng = torch.Generator().manual_seed(1)
    if task == "adding":
        _, y = sweep.adding(40, (20_000,), rng)
        assert abs(((y - 1) ** 2).mean().item() / config.trivial(40) - 1) < 0.03
    else:  # "blank" for certain, then each of eight symbols alike
        _, y = sweep.copying(40, (50,), rng)
        probability = torch.zeros(steps, 9)
        probability[:-3, 8], probability[-3:, :8] = 1, 1 / 8
        loss = -probability.log().expand(50, -1, -1).gather(2, y[..., None]).mean().item()
        assert loss == pytest.approx(config.trivial(40), rel=1e-5)


def test_starts_that_are_told_the_length_and_that_are_not():
    def memory(method: str, steps: int) -> float:
        layer = layer_of(sweep.Config("adding", method, seeds=tuple(range(40))), steps)
        if isinstance(layer, DiagonalLinear):
            return 1 / (1 - layer.eigenvalues().max().item())
        return 1 + math.exp(-layer.both.bias[..., :24].min().item())

    for method, told, untold in (("mingru", "mingru", "mingru-untold"), ("diagonal", "diagonal", "diagonal-disk")):
        assert 400 < memory(told, 500) < 1_001 and 40 < memory(told, 50) < 101, method
        assert memory(untold, 500) == memory(untold, 50), method
    turning = layer_of(sweep.Config("copying", "diagonal"), 500)
    modulus, angle = turning.eigenvalues().abs(), turning.theta
    assert modulus.min() >= 0.99 and modulus.max() <= 0.999 and angle.max() > 6
    disk = layer_of(sweep.Config("copying", "diagonal-disk", seeds=tuple(range(200))), 500).eigenvalues().abs() ** 2
    assert abs(disk.mean() - 0.5) < 0.02 and abs((disk < 0.25).float().mean() - 0.25) < 0.03
    chrono = sweep.start(sweep.Config("adding", "lstm-chrono", seeds=tuple(range(40))), 2, 500)[2]
    forget = chrono[..., 24:48]
    assert torch.equal(chrono[..., :24], -forget) and forget.min() >= 0 and math.log(400) < forget.max() < math.log(499)


def from_the_chapter(updates: int) -> SimpleNamespace:
    """The chapter's own definitions, its budget cut short."""
    wanted = re.compile(
        r"^(import math|CELLS =|@dataclass|def (drives|lstm_step|lstm|gru|adding|copying|uniform|tanh_network"
        r"|recurrence|network|train)\()",
        re.M,
    )
    cells = [cell.source for cell in nbformat.read(CHAPTER, 4).cells if cell.cell_type == "code" and wanted.search(cell.source)]
    source = "\n".join(cells).replace("plots.use_style()", "").replace("else 250", f"else {updates}")
    space: dict = {"__name__": "chapter"}
    exec(source.replace("else 600", f"else {updates}"), space)
    return SimpleNamespace(**space)


@pytest.mark.parametrize("task", sweep.LENGTHS)
def test_it_is_the_chapters_sweep(task, monkeypatch):
    chapter = from_the_chapter(updates=5)
    assert getattr(chapter.config, f"{task}_updates") == 5
    monkeypatch.setattr(sweep.Config, "updates", property(lambda self: 5))
    assert sweep.LENGTHS[task][:3] == getattr(chapter.config, f"{task}_lengths")[:3]
    names = {
        "RNN": "rnn",
        "LSTM": "lstm",
        "LSTM chrono": "lstm-chrono",
        "GRU": "gru",
        "minGRU": "mingru",
        "diagonal": "diagonal",
    }
    for name, method in names.items():
        theirs = chapter.train(name, task, 12)
        close(sweep.train(sweep.Config(task, method, test_batch=500), 12), theirs, rtol=1e-3, atol=1e-4)


def test_the_budget_is_the_chapters():
    source = "\n".join(cell.source for cell in nbformat.read(CHAPTER, 4).cells if cell.cell_type == "code")
    for task, updates in (("adding", 250), ("copying", 600)):
        config = sweep.Config(task, "gru")
        assert config.updates == updates and f"else {updates}" in source and f"{task}_lr: float = {config.lr}" in source


def test_scores_are_of_all_test_sequences(monkeypatch):
    sizes = []
    draw = sweep.adding
    monkeypatch.setattr(sweep, "adding", lambda T, shape, rng: sizes.append(shape[1]) or draw(T, shape, rng))
    monkeypatch.setattr(sweep.Config, "updates", property(lambda self: 2))
    share = sweep.train(sweep.Config("adding", "mingru"), 10)
    assert share.shape == (5,) and sizes == [24, 24] + [100] * 5


def test_it_stops_where_all_break_resumes_and_is_skipped(own_folders, monkeypatch, capsys):
    shares = {10: [0.01, 0.02], 30: [0.3, 0.09], 90: [0.6, 0.4], 180: [0.05, 0.7], 360: [0.51, float("nan")]}
    asked = []

    def train(config, T):
        asked.append(T)
        if T == 90 and asked.count(90) == 1:
            raise KeyboardInterrupt
        return torch.tensor(shares[T])

    monkeypatch.setattr(sweep, "train", train)
    original = sweep.Config
    monkeypatch.setattr(sweep, "Config", lambda task, method: original(task, method, seeds=(7, 8)))
    with pytest.raises(KeyboardInterrupt):
        sweep.main(["adding", "gru"])
    sweep.main(["adding", "gru"])
    assert asked == [10, 30, 90, 90, 180, 360]
    first, second = (json.loads(sweep.Config("adding", "gru").path(seed).read_text()) for seed in (7, 8))
    assert [first[key] for key in ("longest_solved", "first_broken", "all_broken_at", "longest_run")] == [180, 90, 360, 360]
    assert [second[key] for key in ("longest_solved", "first_broken", "all_broken_at")] == [30, 180, 360]
    assert first["shares"]["180"] == 0.05 and second["shares"]["360"] is None
    assert first["provenance"]["failed"] is None and second["provenance"]["failed"] == "not finite at T = 360"
    assert first["provenance"]["steps"] == 5 * 250
    sweep.main(["adding", "gru"])
    assert "skipped" in capsys.readouterr().out and len(asked) == 6


def test_a_cell_that_never_breaks_says_so(own_folders, monkeypatch):
    monkeypatch.setattr(sweep, "train", lambda config, T: torch.full((5,), 0.2))
    result = sweep.results(sweep.Config("copying", "diagonal"))[0]
    assert result["all_broken_at"] is None and result["longest_run"] == 1920 and result["longest_solved"] == 0


def test_another_configuration_starts_anew(own_folders, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "train", lambda config, T: asked.append(T) or torch.ones(len(config.seeds)))
    sweep.sweep(sweep.Config("copying", "rnn"))
    sweep.sweep(sweep.Config("copying", "rnn"))
    assert asked == [1]
    sweep.sweep(sweep.Config("copying", "rnn", hidden=25))
    assert asked == [1, 1]


def test_the_longer_run_goes_on_where_the_sweep_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_longer, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sweep_longer, "WORK", tmp_path / "runs/done.json")
    assert sweep_longer.LENGTHS[0] == 2 * sweep.LENGTHS["adding"][-1]
    monkeypatch.setattr(sweep_longer, "LENGTHS", (2880, 5760))
    assert sweep_longer.CONFIG.test == 500 and sweep_longer.CONFIG.updates == 250
    asked = []

    def train(config, T):
        asked.append((config.method, T))
        if T == 5760 and len(asked) == 2:
            raise KeyboardInterrupt
        return torch.tensor({2880: [0.05, 0.3, 0.6, 0.6, 0.6], 5760: [0.51, 0.6, 0.7, 0.9, float("nan")]}[T])

    monkeypatch.setattr(sweep, "train", train)
    with pytest.raises(KeyboardInterrupt):
        sweep_longer.main([])
    sweep_longer.main([])
    assert asked == [("mingru", 2880), ("mingru", 5760), ("mingru", 5760)]
    runs = [json.loads((tmp_path / f"results/mingru-seed{seed}.json").read_text()) for seed in range(5)]
    assert [run["longest_solved"] for run in runs] == [2880, None, None, None, None]
    assert all(run["all_broken_at"] == 5760 for run in runs)
    assert [run["provenance"]["failed"] for run in runs] == [None] * 4 + ["not finite"]
    sweep_longer.main([])
    assert "skipped" in capsys.readouterr().out and len(asked) == 3
    with pytest.raises(SystemExit, match="no arguments"):
        sweep_longer.main(["gru"])


def reached(task: str, method: str) -> list[str]:
    """Solved by all up to, by any up to, all broken at; a dash where there is none."""
    shares: dict[int, list[float]] = {}
    for folder in (f"sweep-{task}", "sweep-longer"):
        for path in Path("bench/results", folder).glob(f"{method}-seed?.json"):
            run = json.loads(path.read_text())
            if run["provenance"]["data"]["name"] == f"{task}, made":
                for T, share in run["shares"].items():
                    shares.setdefault(int(T), []).append(share)
    assert shares and all(len(values) == 5 for values in shares.values())
    solved = {T: sum(share < sweep.SOLVED for share in values) for T, values in shares.items()}
    by_all, by_any = ([T for T, count in solved.items() if count >= least] for least in (5, 1))
    broken = [T for T, values in shares.items() if sweep.all_broken(values)]
    return [f"{max(by_all):,}" if by_all else "–", f"{max(by_any):,}" if by_any else "–", f"{min(broken):,}" if broken else "–"]


def test_the_chapters_table_says_what_the_files_say():
    text = next(cell.source for cell in nbformat.read(CHAPTER, 4).cells if "| tanh network |" in cell.source)
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if len(row) == 7 and row[0] != "network"]
    assert len(rows) == len(sweep.METHODS)
    for row, method in zip(rows, sweep.METHODS, strict=True):
        assert row[1:] == reached("adding", method) + reached("copying", method), row[0]


@pytest.mark.parametrize("words", [[], ["sorting"], ["adding", "tcn"]])
def test_other_arguments_are_refused(words):
    with pytest.raises(SystemExit, match="expected adding or copying, then any of rnn"):
        sweep.main(words)

"""Adding and sequential MNIST: the data are what is said, each seed trains alone, the closed form is the scan, runs repeat."""

import json

import pytest
import torch

from bench import adding, scan_speed, sequential_mnist
from genimg_lib import datasets

close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for module in (adding, sequential_mnist):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(module, "WORK", tmp_path / "runs")


def test_adding_sequences():
    x, y = adding.sequences((2, 4_000), 20, torch.Generator().manual_seed(0))
    numbers, marks = x.unbind(-1)
    assert x.shape == (2, 4_000, 20, 2) and numbers.min() >= 0 and numbers.max() <= 1
    assert (marks[..., :10].sum(-1) == 1).all() and (marks[..., 10:].sum(-1) == 1).all()
    assert (marks.sum((0, 1)) > 600).all()  # every place, about 800 times
    close(y, torch.where(marks == 1, numbers, 0).sum(-1))
    assert abs(((y - 1) ** 2).mean() - adding.BASELINE) < 0.008 and not torch.equal(y[0], y[1])


@pytest.mark.parametrize("method", adding.NAMES)
def test_clipping_is_seed_by_seed(method):
    torch.manual_seed(0)
    model = adding.Adder(method, (1, 2), 4, 10)
    x, y = adding.sequences((2, 3), 10, torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor]:
        parts = []
        for place in range(2):
            layers = getattr(model.recurrence, "layers", None)
            inner = [p.grad.flatten() for p in layers[place].parameters()] if layers else []
            stacked = [p.grad[place].flatten() for n, p in model.named_parameters() if "layers" not in n]
            parts.append(torch.cat(inner + stacked))
        return parts

    scale = torch.tensor([1e-3, 1e3])  # the first seed's gradient is short, the second's long
    (scale * ((model(x) - y) ** 2).mean(1)).sum().backward()
    before = [g.clone() for g in gradients()]
    assert before[0].norm() < 0.5 < 2 < before[1].norm()
    model.clip(1.0)
    after = gradients()
    close(after[0], before[0])
    close(after[1], before[1] / before[1].norm(), rtol=1e-4, atol=1e-7)


def test_each_seed_is_its_own_network():
    alone, together = adding.Adder("gru", (7,), 4, 10), adding.Adder("gru", (5, 7), 4, 10)
    x, _ = adding.sequences((2, 3), 10, torch.Generator().manual_seed(0))
    close(alone(x[1:])[0], together(x)[1])
    assert not torch.allclose(together(x[1:].expand(2, -1, -1, -1))[0], together(x)[1])


def test_an_adding_row_runs_resumes_and_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adding, "LENGTHS", (8,))
    small = {"seeds": (1, 2), "hidden": 8, "steps": 1_000, "test": 1_000, "batch_size": 8}
    original = adding.Config
    monkeypatch.setattr(adding, "Config", lambda method, T: original(method, T, **small))
    adding.main(["mingru", "8"])
    results = {seed: json.loads((tmp_path / f"results/adding-t8/mingru-seed{seed}.json").read_text()) for seed in (1, 2)}
    for seed, result in results.items():
        assert result["mse_thousandths"] < 100 and result["provenance"]["seed"] == seed and result["published"] is None
        assert result["solved"] == (result["mse_thousandths"] < 1) and len(result["history"]) == 10
    assert results[1]["mse_thousandths"] != results[2]["mse_thousandths"]
    adding.main(["mingru", "8"])
    assert "skipped" in capsys.readouterr().out
    (tmp_path / "results/adding-t8/mingru-seed1.json").unlink()
    adding.main(["mingru", "8"])  # from the last checkpoint
    again = json.loads((tmp_path / "results/adding-t8/mingru-seed1.json").read_text())
    assert again["mse_thousandths"] == results[1]["mse_thousandths"]


def test_published_numbers_stand_beside_the_long_task_only(monkeypatch):
    monkeypatch.setattr(adding, "fit", lambda config: (torch.nn.Linear(1, 1), adding.Run("x", {}, {}), "made to fail"))
    of = {T: adding.results(adding.Config("gru", T))[10] for T in adding.LENGTHS}
    assert of[200]["published"] is None and of[600]["published"]["value"] == 0.053
    assert of[600]["mse_thousandths"] is None and not of[600]["solved"] and of[600]["provenance"]["failed"] == "made to fail"


def test_the_closed_form_is_the_scan():
    model = sequential_mnist.ByPixel(0, 8).double()
    x = torch.rand(3, 50, dtype=torch.float64)
    close(model.last_state(x), model.recurrence(x[None, :, :, None])[0, :, -1], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(model.last_state(x.flip(1)), model.last_state(x), rtol=1e-2)


@pytest.mark.parametrize("method", ["lstm", "gru", "rnn", "mingru"])
def test_rows_are_read_from_the_top(method):
    torch.manual_seed(0)
    model = sequential_mnist.ByRow(method, 0, 8)
    x = torch.rand(2, 784, requires_grad=True)
    logits = model(x)
    assert logits.shape == (2, 10)
    slope = torch.autograd.grad(logits.square().sum(), x)[0].view(2, 28, 28).norm(dim=2)
    assert (slope[:, -1] > slope[:, 0]).all() and (slope[:, -1] > 0).all()


@pytest.mark.parametrize("method", ["gru", "diagonal"])
def test_a_sequential_mnist_row_runs(method, tmp_path, monkeypatch, capsys):
    rng = torch.Generator().manual_seed(0)
    sizes = {"train": 300, "test": 100}

    def load(name, split="train"):
        labels = torch.randint(10, (sizes[split],), generator=rng)
        images = torch.zeros(sizes[split], 1, 28, 28, dtype=torch.uint8)
        images[torch.arange(len(labels)), 0, 2 * labels] = 255  # the label is the row that is white
        return _Images(images, labels)

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(sequential_mnist, "VALIDATION", 100)
    original = sequential_mnist.Config
    monkeypatch.setattr(original, "epochs", property(lambda self: 60))
    monkeypatch.setattr(sequential_mnist, "Config", lambda method, seed: original(method, seed, hidden=16, batch_size=50))
    sequential_mnist.main([method])
    folder = tmp_path / "results" / ("mnist-by-row" if method == "gru" else "mnist-by-pixel")
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [result["provenance"]["seed"] for result in results] == [10, 11, 12]
    assert all(result["test_accuracy_percent"] > 50 for result in results)
    sequential_mnist.main([method])
    assert capsys.readouterr().out.count("skipped") == 3


class _Images:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels


def test_scan_speed_measures_both_orders():
    result = scan_speed.result(1, 64, 4)
    assert result["loop_ms"] > result["doubling_ms"] > 0
    assert result["loop_over_doubling"] == pytest.approx(result["loop_ms"] / result["doubling_ms"], rel=0.01)


@pytest.mark.parametrize(
    ("module", "words"),
    [(adding, []), (adding, ["gru"]), (adding, ["gru", "5"]), (sequential_mnist, ["tcn"]), (scan_speed, ["now"])],
)
def test_other_arguments_are_refused(module, words):
    with pytest.raises(SystemExit, match="expected"):
        module.main(words)

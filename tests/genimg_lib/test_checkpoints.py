"""A run killed at any moment and resumed ends, bit for bit, where one never killed ends; bad files and full disks say so."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from genimg_lib import checkpoints
from genimg_lib.checkpoints import CheckpointError
from genimg_lib.networks import MLPVAE
from genimg_lib.training import Run, adam, make_accelerator, seed_everything, train, vae_step

IMAGES = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(3))
STEPS = 60


def run_to_end(directory: Path, pause: float = 0.0, hidden: int = 8) -> dict[str, torch.Tensor]:
    """Train a tiny VAE whose data order, torch noise and own generator all matter; save every 4 steps."""
    seed_everything(1)
    accelerator = make_accelerator(cpu=True)
    model = MLPVAE((1, 6, 6), hidden=(hidden,), latent_dim=2)
    optimizer = adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(2)
    run = Run("tiny", {"model": model}, {"adam": optimizer}, {"binarize": generator})

    def step_fn(x: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(pause)
        return vae_step(model, optimizer, torch.bernoulli(x, generator=generator), accelerator)

    train(
        run, step_fn, IMAGES, steps=STEPS, batch_size=10, seed=5, accelerator=accelerator, log_every=2, save_every=4,
        directory=directory,
    )  # fmt: skip
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state | {"log": torch.tensor([row["loss"] for row in run.history], dtype=torch.float64)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A forked child cannot use its parent's threads, and the number of threads decides the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run_to_end(tmp_path_factory.mktemp("whole"))


def in_a_child(work, *args) -> int:
    """Fork, run `work(*args)`, return the child's process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid


def die_at(function: str, call: int, after: bool) -> None:
    """From now on, this process kills itself at the given call of os.`function`, just before it or just after."""
    original, calls = getattr(os, function), 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(os, function, deadly)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
@pytest.mark.parametrize(
    ("function", "call", "after"),
    [("fsync", 1, False), ("fsync", 9, True), ("replace", 1, False), ("replace", 6, True), ("unlink", 1, True)],
)
def test_killed_while_saving(function, call, after, tmp_path, never_killed):
    pid = in_a_child(lambda: (die_at(function, call, after), run_to_end(tmp_path)))
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert checkpoints.saved_steps(tmp_path) != [STEPS]
    resumed = run_to_end(tmp_path)
    assert all(torch.equal(resumed[name], never_killed[name]) for name in never_killed)


@needs_fork
def test_killed_at_random_moments(tmp_path, never_killed):
    moments, kills = random.Random(0), 0
    for _ in range(6):
        pid = in_a_child(run_to_end, tmp_path, 0.01)
        time.sleep(moments.uniform(0.05, 0.25))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
        for step in checkpoints.saved_steps(tmp_path):  # whatever bears a final name is whole
            checkpoints.load(checkpoints.step_path(tmp_path, step), recipe="tiny")
    assert kills >= 2
    resumed = run_to_end(tmp_path)
    assert all(torch.equal(resumed[name], never_killed[name]) for name in never_killed)


def test_keeps_the_last_two_and_no_partial_file(tmp_path):
    run_to_end(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000056.safetensors", "step-000000060.safetensors"]
    assert checkpoints.latest(tmp_path) == checkpoints.step_path(tmp_path, STEPS)
    assert checkpoints.latest(tmp_path / "none") is None


def test_state_comes_back_as_it_was(tmp_path):
    state = {
        "tensors": [torch.eye(2, dtype=torch.bfloat16), torch.tensor(3), torch.zeros(0, 4), torch.tensor([True, False])],
        "pairs": {0: (0.9, 0.999), "name": {"none": None, "flag": True, "text": "ß", "nan": float("inf")}},
        "transposed": torch.arange(6.0).view(2, 3).T,
    }
    back = checkpoints.load(checkpoints.save(tmp_path / "a.safetensors", state, recipe="r"), recipe="r")
    assert back["pairs"] == state["pairs"] and isinstance(back["pairs"][0], tuple)
    for given, wanted in zip([*back["tensors"], back["transposed"]], [*state["tensors"], state["transposed"]], strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=0)


def test_refuses_what_would_need_pickle(tmp_path):
    with pytest.raises(TypeError, match=r"state\.odd: set; expected tensors"):
        checkpoints.save(tmp_path / "a", {"odd": {1, 2}}, recipe="r")


@pytest.fixture
def saved(tmp_path) -> Path:
    return checkpoints.save(tmp_path / "step-000000007.safetensors", {"w": torch.randn(100)}, recipe="mine")


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_truncated(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        checkpoints.load(saved, recipe="mine")


def test_every_altered_byte_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    for position in range(0, len(content), 7):
        altered = bytearray(content)
        altered[position] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(CheckpointError):
            checkpoints.load(saved, recipe="mine")


def test_foreign_files(saved, tmp_path):
    with pytest.raises(CheckpointError, match="belongs to 'mine', expected 'other'"):
        checkpoints.load(saved, recipe="other")
    with pytest.raises(CheckpointError, match="No such file"):
        checkpoints.load(tmp_path / "absent", recipe="mine")


def test_another_model_is_refused_and_nothing_changes(tmp_path):
    run_to_end(tmp_path)
    with pytest.raises(CheckpointError, match=r"another model: model\.decoder\.0\.bias is \(8,\).* in the file, \(9,\)"):
        run_to_end(tmp_path, hidden=9)
    assert checkpoints.saved_steps(tmp_path) == [56, STEPS]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_leaves_the_earlier_checkpoint(saved, monkeypatch, function):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = saved.read_bytes()
    monkeypatch.setattr(os, function, full)
    with pytest.raises(CheckpointError, match=r"No space left on device\. Nothing saved before is lost; free space"):
        checkpoints.save(saved, {"w": torch.zeros(100)}, recipe="mine")
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]

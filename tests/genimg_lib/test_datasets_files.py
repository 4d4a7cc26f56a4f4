"""Files: real ones are read as published, spoiled ones refused; downloads end whole or not at all."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from genimg_lib import datasets
from genimg_lib.datasets import download, files, formats

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the official files of MNIST are not beside the repository")


def idx_bytes(array, kind=8):
    header = bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


IMAGES = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 251
LABELS = np.array([7, 0, 9])
FILE = "t10k-images-idx3-ubyte.gz"
GOOD = idx_bytes(IMAGES)


# --- the IDX reader ---------------------------------------------------------------------------------------------------


def test_idx_holds_what_was_written(tmp_path):
    (tmp_path / "a.gz").write_bytes(GOOD)
    assert np.array_equal(formats.read_idx(tmp_path / "a.gz", ndim=3).numpy(), IMAGES)


def spoiled_idx():
    raw = gzip.decompress(GOOD)
    flipped = bytearray(GOOD)
    flipped[len(GOOD) // 2] ^= 0xFF
    return {
        "empty": b"",
        "not gzip": b"<html>404</html>",
        "cut in the header": GOOD[:12],
        "cut in the data": GOOD[: len(GOOD) // 2],
        "cut in the checksum": GOOD[:-3],
        "a byte changed": bytes(flipped),
        "too few bytes": gzip.compress(raw[:-1]),
        "too many bytes": gzip.compress(raw + b"\0"),
        "header alone": gzip.compress(raw[:16]),
        "half a header": gzip.compress(raw[:10]),
        "labels for images": idx_bytes(LABELS),
        "another type": idx_bytes(IMAGES, kind=13),
        "no image": idx_bytes(np.zeros((0, 28, 28))),
        "absurd size": gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12 + b"\0" * 100),
    }


@pytest.mark.parametrize("what", spoiled_idx())
def test_idx_refuses(what, tmp_path):
    (tmp_path / "bad.gz").write_bytes(spoiled_idx()[what])
    with pytest.raises(ValueError, match=r"bad\.gz"):
        formats.read_idx(tmp_path / "bad.gz", ndim=3)


# --- the CIFAR-10 reader ----------------------------------------------------------------------------------------------


def cifar_archive(path, spoil=None):
    """Two images a file, in the layout of the binary version; the images that were put in the training files."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 2, 3, 32, 32), np.uint8)
    with tarfile.open(path, "w:gz") as archive:
        for i, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
            data = b"".join(bytes([(2 * i + j) % 10]) + images[i, j].tobytes() for j in range(2))
            if spoil is not None and name == "data_batch_3.bin":
                data = spoil(data)
            if data is not None:
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return images


def test_cifar_holds_what_was_written(tmp_path):
    images = cifar_archive(tmp_path / "c.tar.gz")
    x, y = formats.read_cifar(tmp_path / "c.tar.gz", "train")
    assert np.array_equal(x.numpy(), images[:5].reshape(10, 3, 32, 32)) and y.tolist() == list(range(10))
    x, y = formats.read_cifar(tmp_path / "c.tar.gz", "test")
    assert np.array_equal(x.numpy(), images[5]) and y.tolist() == [0, 1]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: d[:-1], "multiple of 3073"),
        (lambda d: b"", "multiple of 3073"),
        (lambda d: bytes([77]) + d[1:], "label 77"),
        (lambda d: None, "data_batch_3.bin"),
    ],
)
def test_cifar_refuses_malformed_members(spoil, message, tmp_path):
    cifar_archive(tmp_path / "c.tar.gz", spoil)
    with pytest.raises(ValueError, match=message):
        formats.read_cifar(tmp_path / "c.tar.gz", "train")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_cifar_refuses_truncated_archives(keep, tmp_path):
    cifar_archive(tmp_path / "c.tar.gz")
    data = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match="truncated or altered"):
        formats.read_cifar(tmp_path / "c.tar.gz", "train")


def test_cifar_loads_by_name(tmp_path, monkeypatch):
    (tmp_path / "cifar-10").mkdir()
    archive = tmp_path / "cifar-10" / "cifar-10-binary.tar.gz"
    cifar_archive(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(files.SHA256, "cifar-10/cifar-10-binary.tar.gz", digest)
    monkeypatch.setenv("GENIMG_DATA_DIR", str(tmp_path))
    data = datasets.load("cifar-10", split="test")
    assert data.images.shape == (2, 3, 32, 32) and data.classes[int(data.labels[1])] == "automobile"


# --- local files and downloads ----------------------------------------------------------------------------------------


@needs_real
@pytest.mark.parametrize(
    "name, split, n, first, mean",
    [
        ("mnist", "train", 60_000, [5, 0, 4, 1, 9], 0.1307),
        ("mnist", "test", 10_000, [7, 2, 1, 0, 4], 0.1325),
        ("fashion-mnist", "train", 60_000, [9, 0, 0, 3, 0], 0.2860),
        ("fashion-mnist", "test", 10_000, [9, 2, 1, 1, 6], 0.2868),
    ],
)
def test_the_official_files_give_their_known_first_labels_and_means(name, split, n, first, mean, monkeypatch):
    monkeypatch.setenv("GENIMG_DATA_DIR", str(REAL))
    data = datasets.load(name, split=split)
    assert data.images.shape == (n, 1, 28, 28) and data.images.dtype == torch.uint8
    assert data.labels[:5].tolist() == first and len(data.classes) == 10 and data.labels.dtype == torch.int64
    assert float(data.images.float().mean() / 255) == pytest.approx(mean, abs=5e-5)


class Server:
    """A mirror on this machine: serves what `pages` maps a path to (and its ranges, unless `whole`), notes requests."""

    def __init__(self):
        self.pages, self.requests, self.ranges, self.whole = {}, [], [], False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                outer.ranges.append(self.headers["Range"])
                body, promised = outer.pages.get(self.path, (None, 0))
                start = int((self.headers["Range"] or "bytes=0-")[6:-1]) if body is not None and not outer.whole else 0
                if start and start >= promised:
                    body, status, promised = b"", 416, start
                else:
                    status = 404 if body is None else 206 if start else 200
                self.send_response(status)
                self.send_header("Content-Length", str(promised - start))
                self.end_headers()
                self.wfile.write((body or b"")[start:])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    server = Server()
    monkeypatch.delenv("GENIMG_DATA_DIR", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(files, "MIRRORS", {"mnist": (server.url + "one/", server.url + "two/")})
    monkeypatch.setattr(files, "RETRIES", 0)
    monkeypatch.setattr(download, "PIECE", 50)
    monkeypatch.setitem(files.SHA256, f"mnist/{FILE}", hashlib.sha256(GOOD).hexdigest())
    yield server
    server.server.shutdown()
    server.server.server_close()


def cached(tmp_path):
    return [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_good_download_is_kept_and_used_again(mirror, tmp_path):
    mirror.pages = {f"/one/{FILE}": (GOOD, len(GOOD))}
    path = files.fetch("mnist", FILE)
    assert path.read_bytes() == GOOD
    mirror.pages = {}
    assert files.fetch("mnist", FILE) == path and len(mirror.requests) == 1


ALTERED = GOOD[:100] + b"!" + GOOD[101:]


@pytest.mark.parametrize("body, promised", [(ALTERED, len(GOOD)), (GOOD[:200], len(GOOD)), (GOOD[:200], 200), (b"", 0)])
def test_a_bad_mirror_leaves_nothing_and_the_next_one_is_tried(body, promised, mirror, tmp_path):
    mirror.pages = {f"/one/{FILE}": (body, promised)}
    with pytest.raises(OSError) as error:
        files.fetch("mnist", FILE)
    for part in (f"$GENIMG_DATA_DIR/mnist/{FILE}", "/one/", "/two/", "not set", "'glyphs', 'digits'"):
        assert part in str(error.value)
    assert cached(tmp_path) == ([FILE + ".part"] if len(body) < promised else [])
    mirror.pages[f"/two/{FILE}"] = (GOOD, len(GOOD))
    assert files.fetch("mnist", FILE).read_bytes() == GOOD


def interrupted(mirror, sent=200):
    """A mirror that breaks off after `sent` bytes."""
    mirror.pages = {f"/one/{FILE}": (GOOD[:sent], len(GOOD))}
    with pytest.raises(OSError, match="could not get"):
        files.fetch("mnist", FILE)
    mirror.pages = {f"/one/{FILE}": (GOOD, len(GOOD))}
    mirror.requests.clear()
    mirror.ranges.clear()


@pytest.mark.parametrize("whole", [False, True])
def test_an_interrupted_download_goes_on_where_it_stopped(whole, mirror, tmp_path):
    interrupted(mirror)
    mirror.whole = whole  # a server that knows no ranges sends everything, and everything is taken
    assert files.fetch("mnist", FILE).read_bytes() == GOOD
    assert mirror.ranges == ["bytes=200-"] and cached(tmp_path) == [FILE]


def test_a_download_interrupted_after_its_last_byte_is_whole(mirror, tmp_path):
    interrupted(mirror)
    (tmp_path / "cache" / "genimg" / "mnist" / f"{FILE}.part").write_bytes(GOOD)
    assert files.fetch("mnist", FILE).read_bytes() == GOOD and cached(tmp_path) == [FILE]


def test_a_spoiled_beginning_is_thrown_away_and_the_file_is_fetched_anew(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RETRIES", 1)
    interrupted(mirror)
    (tmp_path / "cache" / "genimg" / "mnist" / f"{FILE}.part").write_bytes(ALTERED[:150])
    assert files.fetch("mnist", FILE).read_bytes() == GOOD
    assert mirror.ranges == ["bytes=150-", None] and cached(tmp_path) == [FILE]


def test_an_altered_cache_is_mended(mirror, tmp_path):
    mirror.pages = {f"/one/{FILE}": (GOOD, len(GOOD))}
    path = files.fetch("mnist", FILE)
    path.write_bytes(GOOD[:50])
    assert files.fetch("mnist", FILE).read_bytes() == GOOD


def test_no_network_and_no_file_is_one_clear_error(mirror, monkeypatch):
    mirror.server.shutdown()
    mirror.server.server_close()
    with pytest.raises(OSError, match=f"could not get {FILE} of mnist") as error:
        files.fetch("mnist", FILE)
    assert "GENIMG_DATA_DIR" in str(error.value) and "Check the network" in str(error.value)


def test_a_local_file_comes_first_and_an_altered_one_is_refused(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("GENIMG_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / FILE).write_bytes(GOOD)
    assert files.fetch("mnist", FILE) == tmp_path / "mnist" / FILE and mirror.requests == []
    (tmp_path / "mnist" / FILE).write_bytes(GOOD[:-1])
    with pytest.raises(OSError, match="truncated or altered"):
        files.fetch("mnist", FILE)
    assert (tmp_path / "mnist" / FILE).read_bytes() == GOOD[:-1]  # the reader's own file is left alone

"""Get a published file: from the reader's folder, the cache, or a mirror; always checked by its SHA-256."""

import os
from pathlib import Path

import pooch

from .download import resuming

# What MNIST, Fashion-MNIST and CIFAR-10 (binary version, MD5 c32a1d4ab5d03f1284b67883e8d87530) consist of.
SHA256 = {
    "mnist/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "mnist/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "mnist/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "mnist/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "fashion-mnist/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    "cifar-10/cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}
MIRRORS = {  # tried in this order; a file's name is appended
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    "cifar-10": ("https://www.cs.toronto.edu/~kriz/",),
}
RETRIES = 2  # further attempts at each mirror


def fetch(name: str, file: str) -> Path:
    """The path of a checked copy of one file of a data set.

    GENIMG_DATA_DIR/name/file if that variable is set and the file exists (an altered one is an error, not replaced);
    else the cache; else a download, which gets its name in the cache only when complete and correct; an interrupted one goes
    on at the next call.
    Raises OSError that says what was tried and where to put the file.
    """
    expected = SHA256[f"{name}/{file}"]
    local = os.environ.get("GENIMG_DATA_DIR")
    if local and (path := Path(local) / name / file).is_file():
        found = pooch.file_hash(str(path), alg="sha256")
        if found != expected:
            raise OSError(f"{path} is truncated or altered: SHA-256 {found}, expected {expected}; replace or remove it")
        return path

    cache = Path(pooch.os_cache("genimg")) / name
    failures = []
    for mirror in MIRRORS[name]:
        source = pooch.create(cache, mirror, registry={file: f"sha256:{expected}"}, retry_if_failed=RETRIES)
        try:
            return Path(source.fetch(file, downloader=resuming(cache / f"{file}.part")))
        except (OSError, ValueError) as error:  # no network or no such page; a truncated or altered file
            failures.append(f"{mirror}{file}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    tried = "\n  ".join(failures)
    raise OSError(
        f"could not get {file} of {name}:\n  {tried}\n"
        f"Check the network and run again; or put the file at $GENIMG_DATA_DIR/{name}/{file} "
        f"(GENIMG_DATA_DIR is {local or 'not set'}). Data sets that need no file: 'glyphs', 'digits'."
    )

import gc
import gzip
import tracemalloc
from http.client import IncompleteRead
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
from models_support import IGNORED, call, one_thread  # noqa: F401

from models.data import DATA, MNIST, FashionMNIST, mnist
from models.data.idx import read_idx
from models.errors import InputError

pytestmark = IGNORED
COUNTS = {"train": 30, "t10k": 20}

# --- IDX files ------------------------------------------------------------------------------------


def idx(array):
    """An array of bytes in the IDX format."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def images_of(split):
    """Images that no flip, turn or shuffle leaves as they are."""
    seed = sorted(COUNTS).index(split)
    return np.random.default_rng(seed).integers(0, 256, (COUNTS[split], 28, 28), np.uint8)


def labels_of(split):
    return np.arange(COUNTS[split], dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path):
    """The four files of a small MNIST, two of them compressed."""
    for split in COUNTS:
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images_of(split)))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx(labels_of(split)))
        )
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the network was asked")

    monkeypatch.setattr(mnist, "fetch_openml", refuse)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_local_files_are_read_in_their_order(cls, folder, no_network):
    data = cls(root=folder, batch_size=10)
    for dataset, split in ((data.train, "train"), (data.test, "t10k")):
        images, labels = dataset[:]
        assert images.dtype == torch.float32
        assert images.shape == (COUNTS[split], 1, 28, 28)
        assert torch.equal(images[:, 0], torch.tensor(images_of(split)) / 255)
        assert labels.tolist() == labels_of(split).tolist()
        image, label = dataset[3]
        assert image.shape == (1, 28, 28)
        assert label == labels[3]


def test_batches_of_bytes_are_images(folder):
    data = MNIST(root=folder, batch_size=10)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (10, 1, 28, 28)
    everything = data.train[:][0]
    for image, label in zip(images, labels, strict=True):
        k = next(k for k in range(30) if torch.equal(everything[k], image))
        assert label == k % 10
    assert torch.equal(next(iter(data.val_dataloader()))[0], data.test[:][0])


def test_images_stay_bytes_in_memory(folder):
    big = np.zeros((5000, 28, 28), np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(big))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(5000, np.uint8)))
    tracemalloc.start()
    data = MNIST(root=folder)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data.train.tensors[0].dtype == torch.uint8
    assert peak < 1.5 * big.nbytes  # torch's own copy, as large again, is not counted
    assert kept < 0.5 * big.nbytes


DAMAGED = {
    "empty": (b"", "must begin with 4 bytes"),
    "magic": (b"\0\0\x0d\x03" + bytes(12), "must begin with 000008"),
    "text": (b"<!doctype html>", "must begin with 000008"),
    "header": (b"\0\0\x08\x03\0\0", "must have a header of 16 bytes; got 6 bytes"),
    "truncated": (idx(images_of("train"))[:-1], "must hold 23520 bytes after its header"),
    "too long": (idx(images_of("train")) + b"\0", "must hold 23520 bytes after its header"),
    "gzip": (gzip.compress(idx(images_of("train")))[:-20], "must be readable"),
    "gzip header": (b"\x1f\x8b\x00\x00", "must be readable"),
    "size": (idx(np.zeros((30, 28, 27), np.uint8)), "images of 28 x 28 pixels"),
    "axes": (idx(np.zeros(30, np.uint8)), "images of 28 x 28 pixels"),
    "count": (idx(np.zeros((29, 28, 28), np.uint8)), "as many labels as images"),
    "none": (idx(np.zeros((0, 28, 28), np.uint8)), "as many labels as images"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named(case, folder, no_network):
    content, expected = DAMAGED[case]
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="train-images-idx3-ubyte") as caught:
        MNIST(root=folder, batch_size=10)
    assert expected in str(caught.value)


def test_labels_beyond_the_classes(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.full(20, 10, np.uint8)))
    with pytest.raises(InputError, match="labels from 0 to 9; got 10 in .*t10k"):
        MNIST(root=folder, batch_size=10)


def test_a_missing_file_is_named_and_the_network_left_alone(folder, no_network):
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="without t10k-images-idx3-ubyte$"):
        MNIST(root=folder, batch_size=10)


def test_idx_of_any_number_of_axes(tmp_path):
    for shape in ((4,), (2, 3), (2, 3, 4)):
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        (tmp_path / "a").write_bytes(idx(array))
        assert np.array_equal(read_idx(tmp_path / "a"), array)


# --- the download ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def download():
    """What fetch_openml returns: every image holds its number, labels are text."""
    number = np.arange(70_000)
    data = np.broadcast_to((number % 251).astype(np.uint8)[:, None], (70_000, 784))
    return SimpleNamespace(data=data, target=(number % 10).astype(str).astype(object))


@pytest.mark.parametrize(("cls", "name"), [(MNIST, "mnist_784"), (FashionMNIST, "Fashion-MNIST")])
def test_download_happens_once_and_leaves_one_file(cls, name, tmp_path, download, monkeypatch):
    asked = []

    def fetch(*args, **kwargs):
        asked.append((*args, kwargs["version"]))
        assert kwargs["parser"] == "liac-arff"  # the other one needs pandas
        return download

    monkeypatch.setattr(mnist, "fetch_openml", fetch)
    for _ in range(2):
        data = cls(root=tmp_path / "new")
    assert asked == [(name, 1)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{name}.npz"]
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    for dataset, first in ((data.train, 0), (data.test, 60_000)):
        image, label = dataset[7]
        assert torch.equal(image, torch.full((1, 28, 28), (first + 7) % 251 / 255))
        assert label == (first + 7) % 10


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        HTTPError("address", 503, "busy", None, None),
        TimeoutError("timed out"),
        IncompleteRead(b"half"),
        ValueError("md5 checksum"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_says_which_files_to_put_where(error, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise error

    monkeypatch.setattr(mnist, "fetch_openml", fetch)
    with pytest.raises(InputError) as caught:
        MNIST(root=tmp_path / "m")
    message = str(caught.value)
    assert str(error) in message
    assert repr(str(tmp_path / "m")) in message
    assert all(f"{s}-{k}-ubyte" in message for s in COUNTS for k in ("images-idx3", "labels-idx1"))
    assert list((tmp_path / "m").iterdir()) == []


def test_an_incomplete_download_is_refused(tmp_path, monkeypatch, download):
    part = SimpleNamespace(data=download.data[:100], target=download.target[:100])
    monkeypatch.setattr(mnist, "fetch_openml", lambda *_, **__: part)
    with pytest.raises(InputError, match="must hold 70000 images; got 100"):
        MNIST(root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"text"])
def test_a_damaged_cache_is_named(content, tmp_path, no_network):
    (tmp_path / "mnist_784.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"mnist_784\.npz.*delete it"):
        MNIST(root=tmp_path)


# --- by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CelebA"])
def test_data_sets_by_name(name, tmp_path):
    assert name in DATA
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    arguments = ("--data", name, "--data.root", tmp_path, "--runs_dir", tmp_path)
    code, _, err = call("fit", *arguments)
    assert code == 2
    assert err.startswith(f"error: {name}: root must")
    assert len(err.splitlines()) == 1

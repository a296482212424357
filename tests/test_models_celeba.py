import numpy as np
import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401
from PIL import Image

from models import runs
from models.autoencoder import Autoencoder
from models.data import CelebA
from models.data.items import in_order
from models.errors import InputError

pytestmark = IGNORED


def picture(path, size=(160, 150), colour=(200, 100, 0), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


@pytest.fixture
def album(tmp_path):
    """Twenty pictures in two folders, in two formats, their number in their blue."""
    for k in range(20):
        picture(tmp_path / f"{k % 2}" / f"{k:03d}.{('png', 'jpg')[k % 2]}", colour=(200, 100, k))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def numbers(dataset):
    return {int(path[-7:-4]) for path in dataset.paths}


def test_folder_is_split_in_the_same_way_each_time(album):
    data, again = (CelebA(root=album, batch_size=4) for _ in range(2))
    assert len(data.train) == 18
    assert numbers(data.train) | numbers(data.test) == set(range(20))
    assert numbers(data.test) == numbers(again.test)
    assert numbers(data.test) != {18, 19}  # a shuffle, not the end
    assert data.shape == (3, 64, 64)
    assert data.classes == 0


def test_no_more_than_the_limit_is_held_out(album, monkeypatch):
    monkeypatch.setattr("models.data.celeba.MOST_HELD_OUT", 1)
    data = CelebA(root=album, batch_size=4)
    assert (len(data.train), len(data.test)) == (19, 1)


def test_published_partition_is_followed(album):
    parts = {k: (0, 1, 2)[k % 3] for k in range(20)}
    names = {k: f"{k:03d}.{('png', 'jpg')[k % 2]}" for k in parts}
    lines = [f"{names[k]} {parts[k]}" for k in parts]
    (album / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    data = CelebA(root=album, batch_size=4)
    assert numbers(data.train) == {k for k in parts if parts[k] == 0}
    assert numbers(data.test) == {k for k in parts if parts[k] == 2}
    (album / "list_eval_partition.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match="must be listed .*; got 019.jpg"):
        CelebA(root=album, batch_size=4)


@pytest.mark.parametrize("line", ["000.png", "000.png 3", "000.png 0 1", "000.png 01"])
def test_damaged_partition(line, album):
    (album / "list_eval_partition.txt").write_text(line)
    with pytest.raises(InputError, match=f"lines such as '000001.jpg 0'; got '{line}'"):
        CelebA(root=album, batch_size=4)


def test_centre_is_cut_out_and_resized(tmp_path):
    image = np.zeros((218, 178, 3), np.uint8)
    image[39:179, 19:159] = 255  # the central square of 140
    image[39:109, 19:159, 2] = 0  # no blue in its upper half
    for k in range(10):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    item, label = CelebA(root=tmp_path, batch_size=1).train[0]
    assert label == 0
    assert item.dtype == torch.float32
    assert item.shape == (3, 64, 64)
    assert item[:2].min() == item.max() == 1
    assert item[2, :31].max() == 0
    assert item[2, 33:].min() == 1
    smaller = CelebA(root=tmp_path, batch_size=1, crop=70, size=16)
    assert smaller.train[0][0].shape == smaller.shape == (3, 16, 16)


@pytest.mark.parametrize(("mode", "colour"), [("L", 51), ("RGBA", (51, 51, 51, 255)), ("1", 1)])
def test_grey_and_transparent_images_become_colour(mode, colour, tmp_path):
    for k in range(10):
        picture(tmp_path / f"{k}.png", colour=colour, mode=mode)
    item, _ = CelebA(root=tmp_path, batch_size=1).train[0]
    assert item.shape == (3, 64, 64)
    torch.testing.assert_close(item, torch.full_like(item, 1.0 if mode == "1" else 0.2))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named(workers, album):
    broken = album / "0" / "000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = CelebA(root=album, batch_size=18, workers=workers)
    dataset = next(part for part in (data.train, data.test) if str(broken) in part.paths)
    with pytest.raises(InputError) as caught:
        list(in_order(dataset, workers))
    assert str(caught.value).startswith(f"CelebA: the images must be readable; got {str(broken)!r}")
    assert len(str(caught.value).splitlines()) == 1


def test_small_images_are_named(album):
    picture(album / "0" / "000.png", size=(139, 200))
    data = CelebA(root=album, batch_size=4)
    with pytest.raises(InputError, match=r"140 pixels wide and high; got .*000.png' of 139 x 200"):
        [item for dataset in (data.train, data.test) for item in dataset]


def test_folders_that_cannot_do(album, tmp_path):
    with pytest.raises(InputError, match="must be an existing folder"):
        CelebA(root=tmp_path / "nowhere")
    for k in range(11):
        next((tmp_path / f"{k % 2}").iterdir()).unlink()
    with pytest.raises(InputError, match="must hold 10 .jpg, .jpeg, .png files or more; got 9"):
        CelebA(root=tmp_path)
    with pytest.raises(InputError, match="size must be at least 1; got 0"):
        CelebA(root=tmp_path, size=0)


def test_training_from_worker_processes_and_from_checkpoints(album, tmp_path):
    settings = {"root": album, "batch_size": 6, "size": 8, "workers": 1}
    model = build(Autoencoder, shape=(3, 8, 8), latent_dim=2)
    trained(model, 1, data=CelebA(**settings))
    model.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = runs.load_data(tmp_path / "a.ckpt")
    assert type(again) is CelebA
    assert again.shape == (3, 8, 8)
    assert numbers(again.test) == numbers(CelebA(**settings).test)

"""CelebA, or any other folder of images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import InputError, require
from .items import Items

__all__ = ["CelebA", "Images"]

SUFFIXES = (".jpg", ".jpeg", ".png")
PARTITION = "list_eval_partition.txt"
TRAIN, TEST = 0, 2  # of the published partition; 1 is for validation and is left out
SPLIT_SEED = 0
MOST_HELD_OUT = 20_000
FEWEST = 10


class CelebA(Items):
    """Colour images from a folder, pixels in [0, 1]; made for CelebA, good for any others.

    All .jpg and .png files below ``root`` are taken, in whichever folders they lie. Of each the
    central square is cut out, 140 pixels wide, and resized to 64, as the WAE paper has it; the
    resizing is bilinear. Nothing is kept in memory: worker processes read what a batch needs.

    The split is that of CelebA's ``list_eval_partition.txt`` where that file lies in ``root``: 0 to
    train on, 2 to test on. Otherwise a tenth of the images, at most 20 000, is held out, always the
    same ones. There are no labels.

    Args:
        root: folder of the images.
        batch_size: images in a training step; a last, smaller batch is dropped.
        crop: side of the square that is cut out, in pixels.
        size: side of the items, in pixels.
        workers: processes that load images.
    """

    def __init__(
        self,
        root: str = "datasets/celeba",
        batch_size: int = 100,
        crop: int = 140,
        size: int = 64,
        workers: int = 2,
    ):
        root = str(root)
        for argument, value in (("crop", crop), ("size", size)):
            require(value >= 1, "CelebA", argument, "be at least 1", value)
        require(Path(root).is_dir(), "CelebA", "root", "be an existing folder", repr(root))
        paths = sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in SUFFIXES)
        condition = f"hold {FEWEST} {', '.join(SUFFIXES)} files or more"
        require(len(paths) >= FEWEST, "CelebA", "root", condition, f"{len(paths)} in {root!r}")
        train, test = split(paths, Path(root) / PARTITION)
        super().__init__(Images(train, crop, size), Images(test, crop, size), batch_size, workers)
        self.shape = (3, size, size)
        self.title = f"images in {Path(root).name}, central {crop} pixels resized to {size}"
        self.save_hyperparameters(logger=False)


class Images(Dataset):
    """Pairs of an image (3, size, size) in [0, 1] and the label 0, from files."""

    def __init__(self, paths, crop, size):
        # One array of text and no list of objects: worker processes share its memory.
        self.paths = np.array([str(path) for path in paths])
        self.crop, self.size = crop, size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = str(self.paths[index])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        # Pillow raises SyntaxError and ValueError for some damaged files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            got = f"{path!r} ({error})"
            raise InputError(f"CelebA: the images must be readable; got {got}") from error
        image = self._square(image, path)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        return pixels.permute(2, 0, 1).contiguous(), 0

    def _square(self, image, path):
        """The central square of ``crop`` pixels, resized to ``size``."""
        width, height = image.size
        got = f"{path!r} of {width} x {height}"
        condition = f"be at least {self.crop} pixels wide and high"
        require(min(width, height) >= self.crop, "CelebA", "images", condition, got)
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        square = image.crop((left, top, left + self.crop, top + self.crop))
        return square.resize((self.size, self.size), Image.Resampling.BILINEAR)


def split(paths, partition):
    """Sorted paths to train on and to test on, by a published partition or by a fixed shuffle."""
    if partition.is_file():
        parts = _partition(partition)
        unlisted = next((path.name for path in paths if path.name not in parts), None)
        condition = f"be listed in {PARTITION}, each of them"
        require(unlisted is None, "CelebA", "images", condition, unlisted)
        chosen = [[p for p in paths if parts[p.name] == part] for part in (TRAIN, TEST)]
        got = f"{len(chosen[0])} and {len(chosen[1])}"
        require(all(chosen), "CelebA", "root", "hold images to train on and to test on", got)
        return chosen
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = set(order[: min(MOST_HELD_OUT, len(paths) // 10)].tolist())
    train = [path for k, path in enumerate(paths) if k not in held_out]
    return train, [paths[k] for k in sorted(held_out)]


def _partition(path):
    """Name of a file to the number of its part, from lines such as ``000001.jpg 0``."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.split() for line in lines if line.strip()]
    known = [str(part) for part in range(3)]
    bad = next((pair for pair in pairs if len(pair) != 2 or pair[1] not in known), None)
    condition = "have lines such as '000001.jpg 0'"
    require(bad is None, "CelebA", str(path), condition, repr(" ".join(bad or ())))
    return {name: int(part) for name, part in pairs}

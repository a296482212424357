"""Data sets to learn from, by name."""

from .celeba import CelebA
from .digits import Digits
from .eight_gaussians import EightGaussians
from .items import Items
from .mnist import MNIST, FashionMNIST

__all__ = ["DATA", "MNIST", "CelebA", "Digits", "EightGaussians", "FashionMNIST", "Items"]

DATA = {data.__name__: data for data in (Digits, EightGaussians, MNIST, FashionMNIST, CelebA)}

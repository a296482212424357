"""Data sets to learn from, by name."""

from .digits import Digits
from .items import Items

__all__ = ["DATA", "Digits", "Items"]

DATA = {data.__name__: data for data in (Digits,)}

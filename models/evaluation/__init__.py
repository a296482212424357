"""How good a trained model is: one call, :func:`evaluate`, and what it reports, ``METRICS``."""

from .classifier import classifier_features
from .features import Features, given_features
from .laws import LAWS
from .measure import evaluate
from .metrics import METRICS, Metric, table

__all__ = [
    "LAWS",
    "METRICS",
    "Features",
    "Metric",
    "classifier_features",
    "evaluate",
    "given_features",
    "table",
]

"""Every system, and its variants that train in another way, on a few digits for a few epochs."""

import csv
from functools import cache

import torch
from models_support import build, trained

from models.data import Digits, Items
from models.data.items import Tensors
from models.systems import SYSTEMS
from models.two_stages import TwoStages

__all__ = [
    "CASES",
    "EPOCHS",
    "SWITCH",
    "TWO_STAGES",
    "assert_equal",
    "few_digits",
    "in_stages",
    "model",
    "read_rows",
    "run",
]

EPOCHS, SWITCH = 4, 2
VARIANTS = {
    "WAE gan": ("WAE", {"form": "gan", "pretrain_steps": 3}),
    "WWAE momentum": ("WWAE", {"momentum": 0.5, "moments": "sampled"}),
    "StackedWAE joint": ("StackedWAE", {"schedule": "joint", "penalty": "sliced"}),
}
CASES = sorted([*SYSTEMS, *VARIANTS])
TWO_STAGES = [name for name, cls in SYSTEMS.items() if issubclass(cls, TwoStages)]


def in_stages(case):
    """Whether the case has a second stage."""
    return VARIANTS.get(case, (case,))[0] in TWO_STAGES


def model(case, seed=0, **settings):
    """An untrained one; a first stage, where there is one, ends after SWITCH epochs."""
    system, variant = VARIANTS.get(case, (case, {}))
    switch = {"first_epochs": SWITCH} if in_stages(case) else {}
    return build(SYSTEMS[system], seed, **{**switch, **variant, **settings})


@cache
def few_digits():
    """240 digits in batches of 60, and 60 to test on."""
    data = Digits()
    (train, train_labels), (test, test_labels) = data.train[:240], data.test[:60]
    return Items(Tensors(train, train_labels), Tensors(test, test_labels), batch_size=60)


def run(case, seed=0, callbacks=(), **options):
    """The model after EPOCHS epochs, and its metrics."""
    return trained(model(case, seed), EPOCHS, callbacks, few_digits(), **options)


def assert_equal(states, others):
    """To the last bit; a failure names what differs."""
    for name, value in states.items():
        assert torch.equal(value, others[name]), name


def read_rows(folder):
    """Of the metrics of a run, one an epoch."""
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))

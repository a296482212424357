"""Full trainings of the committed configs, and their figures: what the claims are tested on.

A training is made once in a process, for all tests that ask for it: ``--dist loadfile`` keeps a
file of claims in one process. A file begins with::

    from claims_support import CLAIM, figures, fitted
    from models_support import one_thread  # noqa: F401

    pytestmark = CLAIM
"""

from functools import cache

import pytest
import yaml
from models_support import IGNORED, ROOT, build, trained

from models.data import DATA
from models.evaluation import classifier_features, evaluate
from models.systems import SYSTEMS

__all__ = ["CLAIM", "NULL_SD", "PLAIN", "SEEDS", "each", "figures", "fitted", "mean"]

CLAIM = [*IGNORED, pytest.mark.training]
SEEDS = range(3)
PLAIN = "digits_autoencoder"
NULL_SD = 0.0024  # of the unbiased MMD^2 between two samples of 540 points of N(0, I), d = 8


def fitted(config, seed=0, max_epochs=None, **overrides):
    """A system after its training by models/configs/<config>.yaml.

    Args:
        config: name of the file.
        seed: of weights and training.
        max_epochs: those of the config if None.
        **overrides: of the model's settings.

    Returns:
        (model, data, metrics): the model in evaluation mode, its data, and by name what its last
        epoch and the validation after it have logged.
    """
    return _fitted(*_training(config, seed, max_epochs, overrides))


def _training(config, seed, max_epochs, overrides):
    """The same for the same training, whether a setting is that of the config or given again."""
    settings = _settings(config)
    changed = overrides.items() - settings["model"]["init_args"].items()
    return config, seed, max_epochs or settings["trainer"]["max_epochs"], tuple(sorted(changed))


@cache
def _settings(config):
    return yaml.safe_load((ROOT / "models" / "configs" / f"{config}.yaml").read_text())


@cache
def _fitted(config, seed, epochs, overrides):
    system, of_data = (_settings(config)[part] for part in ("model", "data"))
    data = _data(_name(of_data), tuple(of_data["init_args"].items()))
    given = {**system["init_args"], "shape": data.shape, **dict(overrides)}
    model = build(SYSTEMS[_name(system)], seed, **given)
    once = {"check_val_every_n_epoch": epochs, "num_sanity_val_steps": 0}
    model, metrics = trained(model, epochs, data=data, trainer=once)
    return model.eval(), data, {name: float(value) for name, value in metrics.items()}


@cache
def _data(name, settings):
    """One object for all trainings on the same data: its classifier is kept with it."""
    return DATA[name](**dict(settings))


def _name(settings):
    return settings["class_path"].rpartition(".")[2]


def figures(config, seed=0, law="prior", max_epochs=None, **overrides):
    """All of models.evaluation by name, and what the last epoch has logged."""
    return _figures(law, *_training(config, seed, max_epochs, overrides))


@cache
def _figures(law, config, seed, epochs, overrides):
    model, data, metrics = _fitted(config, seed, epochs, overrides)
    features = classifier_features(data, 0) if len(data.shape) == 3 else None
    return {**metrics, **evaluate(model, data, law=law, features=features, seed=seed)}


def each(figure, config, **settings):
    """One figure for every seed."""
    return [figures(config, seed, **settings)[figure] for seed in SEEDS]


def mean(figure, config, **settings):
    """Mean over the seeds of one figure."""
    values = each(figure, config, **settings)
    return sum(values) / len(values)

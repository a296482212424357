"""What a comparison trains: one job for every config of a data set and every seed."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from .. import cli
from ..data import DATA
from ..errors import require
from .rows import order, rows_of

__all__ = ["CONFIGS", "Job", "configs", "jobs", "require_features", "shared_epochs"]

PACKAGE = Path(__file__).parents[1]
CONFIGS = PACKAGE / "configs"
EVALUATIONS = 5  # of the test items during a run, for its curves


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        system: name of the config without that of the data set.
        seed: of the run.
        config: of ``fit``.
        arguments: of ``fit`` beside it.
        laws: the laws of codes to evaluate.
        features: "module:function" for the Frechet distance; None: a classifier.
        out: folder of the comparison.
    """

    system: str
    seed: int
    config: Path
    arguments: tuple
    laws: tuple
    features: str | None
    out: Path

    @property
    def name(self):
        """Of the run folder."""
        return f"{self.system}_seed{self.seed}"

    @property
    def settings(self):
        """What two jobs must share for the result of one to stand for the other, as plain data."""
        return {
            "arguments": list(self.arguments),
            "config": self.config.read_text(encoding="utf-8"),
            "defaults": cli.CONFIG.read_text(encoding="utf-8"),
            "laws": list(self.laws),
            "features": self.features,
            "code": code_digest(),
        }


def configs(data, systems, folder=CONFIGS):
    """Configs of a data set, {system: path} in the order of the table.

    Args:
        data: name of the data set, the first part of the files' names.
        systems: those wanted; empty or None: all that there are.
        folder: where the configs are.
    """
    found = {path.stem[len(data) + 1 :]: path for path in Path(folder).glob(f"{data}_*.yaml")}
    condition = f"be the first part of the name of a config in {folder}"
    require(found, "compare", "--data", condition, repr(data))
    names = sorted(found, key=order)
    for system in systems or ():
        condition = f"be among {', '.join(names)}"
        require(system in found, "compare", "--systems", condition, repr(system))
    return {name: found[name] for name in names if not systems or name in systems}


def shared_epochs(paths):
    """The number of epochs that all configs agree on: the budget."""
    epochs = {_read(path)["trainer"]["max_epochs"] for path in paths}
    condition = f"be given where configs differ in trainer.max_epochs, {sorted(epochs)}"
    require(len(epochs) == 1, "compare", "--epochs", condition, None)
    return epochs.pop()


def require_features(paths, features):
    """Refuse, before hours of training, images that no classifier can be trained on."""
    for path in paths:
        data = DATA[_read(path)["data"]["class_path"].rpartition(".")[2]]
        ok = features or len(data.shape) == 1 or data.classes > 1
        condition = f"be given for {data.__name__}, whose images have no classes"
        require(ok, "compare", "--features", condition, features)


def jobs(options, epochs):
    """All jobs, every system with the first seed before any with the second.

    Args:
        options: the parsed command line.
        epochs: of every job, all stages together.
    """
    found = configs(options.data, options.systems, options.configs)
    return [
        Job(
            system=system,
            seed=seed,
            config=path,
            arguments=_arguments(path, seed, epochs, options),
            laws=tuple(row.law for row in rows_of(system)),
            features=options.features,
            out=options.out,
        )
        for seed in range(options.seeds)
        for system, path in found.items()
    ]


def _arguments(path, seed, epochs, options):
    """Of ``fit``; a first stage keeps its share of the epochs."""
    config = _read(path)
    overrides = {
        "seed_everything": seed,
        "trainer.max_epochs": epochs,
        "trainer.check_val_every_n_epoch": _interval(epochs),
        "trainer.accelerator": options.accelerator,
        "trainer.devices": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    }
    if options.arch:
        overrides["model.network"] = options.arch
    first = config["model"]["init_args"].get("first_epochs", 0)
    if first:
        share = first / config["trainer"]["max_epochs"]
        overrides["model.first_epochs"] = min(max(1, round(share * epochs)), epochs - 1)
    return tuple(text for key, value in overrides.items() for text in (f"--{key}", str(value)))


def _interval(epochs):
    """Epochs between evaluations: some :data:`EVALUATIONS` of them, one after the last epoch."""
    return max(n for n in range(1, max(1, epochs // EVALUATIONS) + 1) if epochs % n == 0)


def _read(path):
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


@cache
def code_digest():
    """Of the code that trains and evaluates: results of other code are not reused."""
    digest = hashlib.sha256()
    for package in (PACKAGE, PACKAGE.parent / "otkernels"):
        for path in sorted(package.rglob("*.py")):
            if Path(__file__).parent not in path.parents:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

"""``fit``, ``validate`` and ``test``: LightningCLI, plus a folder and a page for every run."""

import argparse
import json
import logging
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from . import checkpoints, evaluation, failures, progress, report, runs
from .autoencoder import Autoencoder
from .data import Items
from .errors import InputError, require

CONFIG = Path(__file__).parent / "configs" / "sliced_wae.yaml"
# The device survey and advertisements that Lightning prints as "info"; warnings still show.
QUIET_LOGGERS = ("lightning.pytorch", "lightning.fabric")
OTHER_COMMANDS = {
    "sample": "draw from a checkpoint",
    "interpolate": "walk between codes of a checkpoint",
    "compare": "train all systems under one budget and write one page",
}
DESCRIPTION = f"""Train and evaluate Wasserstein autoencoders. `fit` needs no further argument.
Beside the subcommands below there are
{"; ".join(f"`{name}`: {what}" for name, what in OTHER_COMMANDS.items())};
each has its own --help."""


class CLI(LightningCLI):
    """LightningCLI with our defaults; after ``fit`` it writes the page.

    Args:
        args: the command and its options; those of this process if None.
    """

    def __init__(self, args=None):
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        super().__init__(
            Autoencoder,
            Items,
            args=sys.argv[1:] if args is None else args,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Metrics are epoch means, so a step has nothing to log; -1: measure all before step 1.
            trainer_defaults={
                "log_every_n_steps": 1,
                "num_sanity_val_steps": -1,
                "max_epochs": 250,
                "devices": 1,
            },
            parser_kwargs={
                "prog": "python -m models",
                "description": DESCRIPTION,
                "exit_on_error": False,
                **{name: {"exit_on_error": False} for name in self.subcommands()},
            },
        )

    @staticmethod
    def subcommands():
        """Lightning's, less ``predict``; with the Trainer arguments that are not options."""
        commands = LightningCLI.subcommands()
        del commands["predict"]
        return commands

    def add_arguments_to_parser(self, parser):
        """Where a run is kept, how many cores it takes; the model takes its shape from the data."""
        parser.link_arguments("data.shape", "model.init_args.shape", apply_on="instantiate")
        parser.set_defaults({"data": {"class_path": "models.data.Digits"}})
        parser.add_argument("--name", type=str, help="Folder of the run (name of the model)")
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs")
        parser.add_argument("--features", type=str, help="Of `test`: module:function")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")

    def parse_arguments(self, parser, args):
        """Parse; a checkpoint brings its model, and other settings that those given override."""
        place = 1 + next((k for k, word in enumerate(args) if word in self.subcommands()), -1)
        self.config = parser.parse_args([*args[:place], *settings_before(args), *args[place:]])
        command = self.config.subcommand
        path = self.config[command].ckpt_path
        if path is None:
            require(command == "fit", command, "--ckpt_path", "be given", path)
        else:
            ours = [word for word in args if word.startswith("--model")]
            condition = "not be given beside --ckpt_path, which brings the model"
            require(not ours, command, "--model", condition, " ".join(ours))
            self.epochs_done = runs.read_checkpoint(path, "--ckpt_path")["epoch"] + 1

    def instantiate_classes(self):
        """Build model and data; what they say about bad input comes out as they said it."""
        threads = self.config[self.subcommand].threads
        require(threads >= 1, self.subcommand, "--threads", "be at least 1", threads)
        torch.set_num_threads(threads)
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse's "does not validate", whatever the reason
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise

    def instantiate_trainer(self, **kwargs):
        """The Trainer; ``fit`` logs into a new run folder or into that of its checkpoint."""
        self.folder = None
        config = self.config_init[self.subcommand]
        lines = config.trainer.enable_progress_bar is None and not sys.stdout.isatty()
        config.trainer.enable_progress_bar = not lines and config.trainer.enable_progress_bar
        if self.subcommand != "fit":
            return self._trainer(logger=False, enable_checkpointing=False, **kwargs)
        if config.trainer.fast_dev_run:
            return self._trainer(**kwargs)
        resumed = runs.run_of(config.ckpt_path) if config.ckpt_path else None
        name = config.name or type(self.model).__name__.lower()
        self.folder = resumed or runs.unused(config.runs_dir, name)
        config.trainer.callbacks = [
            *as_list(config.trainer.callbacks),
            LogUntrained(),
            failures.FiniteNumbers(),
            *([progress.Lines()] if lines else []),
            *checkpoints.keepers(self.folder),
        ]
        config.trainer.plugins = [*as_list(config.trainer.plugins), checkpoints.WholeFiles()]
        logger = loggers(self.folder, config.trainer.logger)
        trainer = self._trainer(default_root_dir=self.folder, logger=logger, **kwargs)
        if trainer.is_global_zero:
            runs.make_writable(self.folder)
            runs.mend_logs(self.folder)
        return trainer

    def _trainer(self, **kwargs):
        try:
            trainer = super().instantiate_trainer(**kwargs)
            self._require_all_processes(trainer)
            return trainer
        except MisconfigurationException as error:  # arguments that do not fit this machine
            raise InputError(f"models: --trainer: {error}") from error

    def _require_all_processes(self, trainer):
        """Refuse to run once in each process of torchrun: all would write the same files."""
        started = TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 0
        condition = f"be {started} in all, as many as torchrun has started processes"
        ok = trainer.world_size == started or not started
        require(ok, self.subcommand, "--trainer.devices", condition, trainer.world_size)

    @rank_zero_only
    def before_fit(self):
        """Say what is about to happen, and in which units."""
        hparams = self.model.hparams
        parameters = sum(p.numel() for p in self.model.parameters())
        print(
            f"{type(self.model).__name__}, {parameters} parameters, {hparams.latent_dim}-D latent, "
            f"{hparams.prior} prior, seed {torch.initial_seed()}\n"
            f"Data: {self.datamodule.title}\n{report.objective(self.model)}"
        )
        if self.config.fit.ckpt_path:
            done, planned = self.epochs_done, self.trainer.max_epochs
            print(f"Resuming from {self.config.fit.ckpt_path}: {done} of {planned} epochs done")
        if self.folder:
            print(f"Writing to {report.readable(self.folder)}/", flush=True)

    def fit(self, **kwargs):
        """Train; what stops the run from outside is said together with what is left of it."""
        with failures.told(self.folder, self.trainer):
            self.trainer.fit(**kwargs)

    @rank_zero_only
    def after_fit(self):
        """Write pictures and page and say where they are."""
        if self.folder:
            with failures.told(self.folder, self.trainer):
                print(report.write(self.folder, self.model, self.datamodule, self.trainer))

    @rank_zero_only
    def after_test(self):
        """Print the full evaluation, and keep it in the run folder that holds the checkpoint."""
        features = self._features()
        metrics = evaluation.evaluate(self.model, self.datamodule, features=features)
        print(evaluation.table(metrics, features))
        path = self.config.test.ckpt_path
        folder = runs.run_of(path)
        if folder:
            named = {"ckpt_path": Path(path).name, "features": features and features.name}
            text = json.dumps({**named, **metrics}, indent=2)
            runs.write_whole(folder / "test.json", f"{text}\n".encode())
            print(f"Written to {report.readable(folder / 'test.json')}")

    def _features(self):
        """The features of ``--features``, else of a classifier of images that have classes."""
        given, data = self.config.test.features, self.datamodule
        if given:
            return evaluation.given_features(given)
        return evaluation.classifier_features(data) if len(data.shape) == 3 else None


def settings_before(args):
    """The arguments that those given override: of a checkpoint, or of our default.

    The default config belongs to one model: another one, or a config, begins from its own defaults.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--ckpt_path", "--model"):
        parser.add_argument(name)
    parser.add_argument("--config", "-c", action="append")
    given = parser.parse_known_args(args)[0]
    recalled = runs.recalled(given.ckpt_path, "--ckpt_path") if given.ckpt_path else []
    alone = not (given.model or given.config or "--config" in recalled)
    return ["--config", str(CONFIG), *recalled] if alone else recalled


def as_list(given):
    """None, one or several, as a list."""
    return [] if given is None else given if isinstance(given, list) else [given]


class SaveRunConfig(SaveConfigCallback):
    """The settings of a run, in its folder, as a file that ``fit --config`` takes again."""

    def save_config(self, trainer, pl_module, stage):
        """Write config.yaml, without the checkpoint that a resumed run came from."""
        if stage != "fit":
            return
        config = self.config.clone()
        config.ckpt_path = None
        text = self.parser.dump(config, skip_none=False)
        runs.write_whole(Path(trainer.default_root_dir) / "config.yaml", text.encode())


class LogUntrained(Callback):
    """Log the metrics of the untrained model, which Lightning measures but drops, as epoch -1."""

    def on_sanity_check_end(self, trainer, pl_module):
        """Pass them to the loggers, unless the run is a resumed one."""
        if trainer.global_step > 0:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": -1}, step=0)


def loggers(folder, given):
    """CSV and TensorBoard below the run folder, then what the user asked for."""
    if given is False:
        raise InputError("fit: --trainer.logger must not be false, the page shows it; got False")
    given = [] if given is True else as_list(given)
    # One numbered folder a session: a resumed run adds to the logs and never rewrites them.
    return [
        CSVLogger(folder / "logs", name="csv", flush_logs_every_n_steps=1),
        TensorBoardLogger(folder / "logs", name="tensorboard"),
        *given,
    ]

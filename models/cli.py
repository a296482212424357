"""``fit``, ``validate`` and ``test``: LightningCLI, plus a folder and a page for every run."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from . import report, runs
from .autoencoder import Autoencoder
from .data import Items
from .errors import InputError, require

CONFIG = Path(__file__).parent / "configs" / "sliced_wae.yaml"
DESCRIPTION = """Train and evaluate Wasserstein autoencoders. `fit` needs no further argument;
`sample --help` tells how to draw from a checkpoint."""


class CLI(LightningCLI):
    """LightningCLI with our defaults; after ``fit`` it writes the page."""

    def __init__(self):
        defaults = {"default_config_files": [str(CONFIG)], "exit_on_error": False}
        super().__init__(
            Autoencoder,
            Items,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Metrics are epoch means, so a step has nothing to log; -1: measure all before step 1.
            trainer_defaults={"log_every_n_steps": 1, "num_sanity_val_steps": -1},
            parser_kwargs={
                "prog": "python -m models",
                "description": DESCRIPTION,
                "exit_on_error": False,
                **{name: dict(defaults) for name in self.subcommands()},
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
        parser.add_argument("--name", default="sliced_wae", help="Folder of the run")
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")

    def parse_arguments(self, parser, args):
        """Parse, and refuse a checkpoint that is missing or not ours before it is read."""
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        path = self.config[command].ckpt_path
        if path is None:
            require(command == "fit", command, "--ckpt_path", "be given", path)
        else:
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
        if self.subcommand != "fit":
            return self._trainer(logger=False, enable_checkpointing=False, **kwargs)
        if config.trainer.fast_dev_run:
            return self._trainer(**kwargs)
        resumed = runs.run_of(config.ckpt_path) if config.ckpt_path else None
        self.folder = resumed or runs.unused(config.runs_dir, config.name)
        config.trainer.callbacks = [*(config.trainer.callbacks or []), *callbacks(self.folder)]
        logger = loggers(self.folder, config.trainer.logger)
        trainer = self._trainer(default_root_dir=self.folder, logger=logger, **kwargs)
        runs.make_writable(self.folder)
        return trainer

    def _trainer(self, **kwargs):
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:  # arguments that do not fit this machine
            raise InputError(f"models: --trainer: {error}") from error

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
            print(f"Writing to {report.readable(self.folder)}/")

    def after_fit(self):
        """Write pictures and page and say where they are."""
        if self.folder and self.trainer.is_global_zero:
            print(report.write(self.folder, self.model, self.datamodule, self.trainer))


class SaveRunConfig(SaveConfigCallback):
    """The settings of a run, in its folder, as a file that ``fit --config`` takes again."""

    def save_config(self, trainer, pl_module, stage):
        """Write config.yaml, without the checkpoint that a resumed run came from."""
        if stage != "fit":
            return
        config = self.config.clone()
        config.ckpt_path = None
        path = Path(trainer.default_root_dir) / "config.yaml"
        self.parser.save(config, path, skip_none=False, overwrite=True)


class LogUntrained(Callback):
    """Log the metrics of the untrained model, which Lightning measures but drops, as epoch -1."""

    def on_sanity_check_end(self, trainer, pl_module):
        """Pass them to the loggers, unless the run is a resumed one."""
        if trainer.global_step > 0:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": -1}, step=0)


def callbacks(folder):
    """Keep the last and the best state; record the untrained one.

    Two callbacks, because ``save_last=True`` of one writes only when the best improves.
    """
    place = {"dirpath": folder / runs.CHECKPOINTS, "enable_version_counter": False}
    return [
        ModelCheckpoint(filename="best", monitor="val/loss", **place),
        ModelCheckpoint(filename="last", **place),
        LogUntrained(),
    ]


def loggers(folder, given):
    """CSV and TensorBoard below the run folder, then what the user asked for."""
    if given is False:
        raise InputError("fit: --trainer.logger must not be false, the page shows it; got False")
    given = [] if given in (None, True) else given if isinstance(given, list) else [given]
    # One numbered folder a session: a resumed run adds to the logs and never rewrites them.
    return [
        CSVLogger(folder / "logs", name="csv", flush_logs_every_n_steps=1),
        TensorBoardLogger(folder / "logs", name="tensorboard"),
        *given,
    ]

"""Systems trained by two processes together: what tests/test_models_ranks.py runs in each of them.

A step takes all items, so that both orders of the data, that of one process and that of two, make
the same batches; prior points are rows of one table. What is left to differ is rounding.
"""

import os
from functools import cache

import lightning as L
import torch
from models_support import build, call, trained
from torch import distributed as dist

from models.autoencoder import Autoencoder
from models.data import Digits, Items
from models.data.items import Tensors
from models.posterior import Posterior
from models.systems import WAE, WWAE, SlicedWAE, StackedWAE
from models.systems.wwae import code_moments
from otkernels import distributed

__all__ = ["SYSTEMS", "Dies", "dies", "fit", "moments", "parts", "posterior"]

N, DIM, EPOCHS = 120, 4, 4
SYSTEMS = {
    "SlicedWAE": (SlicedWAE, {}),
    "WAE mmd": (WAE, {}),
    "WAE gan": (WAE, {"form": "gan"}),
    "WWAE full": (WWAE, {"weight": 10.0, "momentum": 0.5}),
    "WWAE diagonal": (WWAE, {"weight": 10.0, "covariance": "diagonal"}),
    "StackedWAE": (StackedWAE, {"schedule": "joint", "first_epochs": 1, "match_weight": 1.0}),
}


class Rows:
    """A prior whose points are rows of one table: each process has those of its place."""

    name, dim, scale = "gaussian", DIM, 1.0

    def sample(self, n, generator=None):
        place = dist.get_rank() if dist.is_initialized() else 0
        table = torch.randn(N, DIM, generator=torch.Generator().manual_seed(1))
        return table[place * n : (place + 1) * n]


@cache
def items(n):
    """120 digits, n of them in a batch."""
    data = Digits().train[:N]
    return Items(Tensors(*data), Tensors(*data), batch_size=n)


def fit(name, rank=0, size=1):
    """The weights after a few steps on all items, in float64."""
    system, settings = SYSTEMS[name]
    model = build(system, latent_dim=DIM, **settings)
    model.prior = Rows()
    options = {"precision": "64-true", "limit_val_batches": 0, "num_sanity_val_steps": 0}
    if size > 1:
        _as_torchrun(rank, size)
        unused = "_find_unused_parameters_true" if system is StackedWAE else ""
        options |= {"devices": size, "strategy": f"ddp{unused}"}
    trained(model, EPOCHS, data=items(N // size), trainer=options)
    return model.state_dict()


def parts(name, rank, size):
    """The same, each process with the penalty of its own batch."""
    of_all = Autoencoder.of_all
    Autoencoder.of_all = lambda model, function: function
    try:
        return fit(name, rank, size)
    finally:
        Autoencoder.of_all = of_all


def posterior():
    """The laws of N codes."""
    draw = torch.randn(2, N, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return Posterior(draw[0] + 1, draw[1].square().requires_grad_())


def moments(rank, size):
    """Those of codes that are spread unevenly, and a gradient to this rank's variances."""
    law, n = posterior(), N // 3
    mine = slice(0, n) if rank == 0 else slice(n, N)
    own = Posterior(law.mean[mine], law.variance[mine])
    mean, cov = code_moments(own, distributed.mean_cov)
    cov.square().sum().backward()
    return {"mean": mean.detach(), "cov": cov.detach(), "grad": law.variance.grad[mine]}


class Dies(L.Callback):
    """A bug in the third step of rank 1 alone."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 2 and module.global_rank == 1:
            raise ZeroDivisionError("of rank 1")


def dies(folder, rank, size):
    """The command line: exit code, stdout and stderr, or the bug that it passes on."""
    _as_torchrun(rank, size)
    words = ["--data.batch_size", 300, "--trainer.accelerator", "cpu", "--trainer.devices", size]
    words += ["--trainer.callbacks", f"{__name__}.Dies", "--runs_dir", folder]
    try:
        return call("fit", *words)
    except (ZeroDivisionError, RuntimeError) as error:
        return str(error)


def _as_torchrun(rank, size):
    """What torchrun tells a process that it has started."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    names |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in names.items()})

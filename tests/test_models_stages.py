"""Systems in two stages: when a stage ends, and what measuring between them leaves alone."""

from types import SimpleNamespace

import pytest
import torch
from models_cases import few_digits
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models.errors import InputError
from models.posterior import Posterior
from models.systems import LatentOT, StackedWAE

pytestmark = IGNORED
STEPS = 4  # of an epoch of few_digits


def stacked(**settings):
    return build(StackedWAE, **{"latent_dim": 3, "second_width": 16, "first_epochs": 1, **settings})


def ends_of(model, epochs, **trainer):
    """The steps at which the stages of a training ended, by its step sizes."""
    trained(model, epochs, data=few_digits(), trainer=trainer)
    return [end for _, end in model.lr_schedulers().lr_lambdas[0].stages]


@pytest.mark.parametrize(
    ("trainer", "ends"),
    [
        ({}, [STEPS, 3 * STEPS]),
        ({"max_steps": 10}, [STEPS, 10]),
        ({"accumulate_grad_batches": 3}, [2, 6]),  # the last batch of an epoch makes a step too
    ],
)
def test_first_stage_ends_with_its_epochs_however_the_run_is_measured(trainer, ends):
    assert ends_of(stacked(), 3, **trainer) == ends


def test_a_run_measured_in_steps_alone_drops_late_in_each_stage():
    assert ends_of(stacked(), -1, max_steps=10) == [STEPS, 10]


def test_a_run_whose_steps_end_in_the_first_stage_is_refused():
    with pytest.raises(
        InputError, match="StackedWAE: first_epochs must leave epochs to the second"
    ):
        trained(stacked(first_epochs=2), 3, data=few_digits(), trainer={"max_steps": 2 * STEPS})


@pytest.mark.parametrize("unused", [True, False])
def test_processes_that_wait_for_all_gradients_are_refused(unused):
    model = stacked()
    wrapped = SimpleNamespace(find_unused_parameters=unused)
    model._trainer = SimpleNamespace(strategy=SimpleNamespace(model=wrapped))
    if unused:
        model.on_train_start()
        return
    with pytest.raises(InputError, match="must be ddp_find_unused_parameters_true"):
        model.on_train_start()


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k}


@pytest.mark.parametrize("measure", ["codes", "sample"])
def test_measuring_in_the_middle_of_training_leaves_batch_statistics_alone(measure):
    model = stacked(network="conv").train()
    model._trainer = SimpleNamespace(datamodule=few_digits())
    before = statistics(model)
    if measure == "codes":
        codes = model.training_codes()
        assert torch.equal(codes, model.eval().training_codes())
    else:
        model.sample(16, torch.Generator().manual_seed(0))
        assert all(module.training for module in model.modules())
    assert before
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())


def test_codes_without_a_dual_give_a_loss_that_stops_the_run():
    model = build(LatentOT, latent_dim=3)
    metrics = model.evaluate(Posterior(torch.full((20, 3), torch.nan)), torch.zeros(20))
    assert metrics["loss"].isnan()
    assert metrics["prior_distance"].isnan()

"""What a comparison trains, and which results it takes for its own."""

import json
from dataclasses import replace

import pytest
from models_configs import write_config
from models_support import IGNORED, build, call, one_thread  # noqa: F401

from models.compare import command, plan

pytestmark = IGNORED


def parsed(*arguments):
    return command.parse([str(argument) for argument in arguments])


def after(option, arguments):
    return arguments[arguments.index(option) + 1]


def test_committed_digits_configs_make_one_job_each_and_seed():
    options = parsed("--seeds", 2)
    found = plan.configs("digits", None)
    planned = plan.jobs(options, plan.shared_epochs(found.values()))
    assert list(found)[:2] == ["autoencoder", "vae"]
    assert [(j.system, j.seed) for j in planned] == [(s, k) for k in (0, 1) for s in found]
    assert {after("--trainer.max_epochs", j.arguments) for j in planned} == {"500"}
    assert planned[0].laws == ("prior", "unit", "gaussian", "mixture", "codes")
    assert planned[1].laws == ("prior",)


def test_epochs_rescale_the_first_stage_and_arch_replaces_the_network(tmp_path):
    write_config(tmp_path, "x_a", "StackedWAE", 3.0, epochs=200, more=["first_epochs: 150"])
    write_config(tmp_path, "x_b", "SlicedWAE", 10.0, epochs=200)
    options = parsed("--data", "x", "--configs", tmp_path, "--arch", "conv", "--seeds", 1)
    first, second = plan.jobs(options, 20)
    assert after("--model.first_epochs", first.arguments) == "15"
    assert after("--model.network", first.arguments) == "conv"
    assert "--model.first_epochs" not in second.arguments
    assert plan.jobs(parsed("--data", "x", "--configs", tmp_path), 200)[0].arguments.count(
        "--model.network"
    ) == 0  # fmt: skip


@pytest.mark.parametrize(("epochs", "interval"), [(500, 100), (20, 4), (27, 3), (11, 1), (1, 1)])
def test_the_last_epoch_is_evaluated(epochs, interval, tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)
    (only,) = plan.jobs(parsed("--data", "x", "--configs", tmp_path, "--seeds", 1), epochs)
    assert after("--trainer.check_val_every_n_epoch", only.arguments) == str(interval)
    assert epochs % interval == 0


def test_settings_differ_where_results_may(tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)

    def settings(*arguments, epochs=2):
        options = parsed("--data", "x", "--configs", tmp_path, *arguments)
        return [j.settings for j in plan.jobs(options, epochs)]

    first, second, _ = settings()
    assert first != second  # the seed
    assert first == settings("--jobs", 1, "--out", tmp_path / "elsewhere")[0]
    for other in (settings(epochs=3), settings("--arch", "conv"), settings("--accelerator", "auto"),
                  settings("--features", "math:sqrt")):  # fmt: skip
        assert first != other[0]
    write_config(tmp_path, "x_a", "SlicedWAE", 11.0)
    assert first != settings()[0]


def test_settings_hold_code_defaults_and_laws(monkeypatch, tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)
    first, *_ = plan.jobs(parsed("--data", "x", "--configs", tmp_path), 2)
    settings = first.settings
    assert settings == first.settings == json.loads(json.dumps(settings))
    assert replace(first, laws=("codes",)).settings != settings
    with monkeypatch.context() as patch:
        patch.setattr(plan, "code_digest", lambda: "other")
        assert first.settings != settings
    monkeypatch.setattr(plan.cli, "CONFIG", first.config)
    assert first.settings != settings


def test_digest_is_of_all_code_that_trains(monkeypatch, tmp_path):
    files = [tmp_path / "models" / "systems" / "a.py", tmp_path / "otkernels" / "b.py"]
    monkeypatch.setattr(plan, "PACKAGE", tmp_path / "models")
    digests = []
    for text in ("1", "2"):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            digests.append(plan.code_digest.__wrapped__())
    assert len(set(digests)) == 4
    monkeypatch.undo()
    assert plan.code_digest() == plan.code_digest.__wrapped__()


BAD = {
    "data": (["--data", "nope"], "--data must be the first part of the name of a config in"),
    "systems": (["--systems", "vae", "nope"], "--systems must be among autoencoder, vae"),
    "seeds": (["--seeds", 0], "--seeds must be at least 1; got 0"),
    "jobs": (["--jobs", 0], "--jobs must be at least 1; got 0"),
    "epochs": (["--epochs", 0], "--epochs must be at least 1; got 0"),
    "features": (["--features", "nope:f"], "must be package.module:function"),
    "no features": (["--data", "celeba"], "--features must be given for CelebA"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_trains_nothing(case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    code, _, err = call("compare", *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_configs_of_unlike_budgets_need_a_word(tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0, epochs=2)
    write_config(tmp_path, "x_b", "SlicedWAE", 10.0, epochs=3)
    code, _, err = call("compare", "--data", "x", "--configs", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "--epochs must be given where configs differ in trainer.max_epochs, [2, 3]" in err

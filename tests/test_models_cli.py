import csv
import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.image
import pytest
import torch
from models_support import IGNORED, ROOT, call, one_thread  # noqa: F401

from models import cli, evaluation, report, runs
from models.systems import SYSTEMS, SlicedWAE
from models.two_stages import TwoStages

pytestmark = IGNORED


@pytest.fixture(autouse=True)
def quick_classifier(monkeypatch):
    """The full one is tested elsewhere."""
    monkeypatch.setattr(evaluation.classifier, "STEPS", 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A two-epoch run of the default configuration, made as a user makes it."""
    parent = tmp_path_factory.mktemp("runs")
    command = ["fit", "--runs_dir", str(parent), "--trainer.max_epochs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "models", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "litlogger" not in done.stdout
    assert done.stdout.rstrip().endswith(str(parent / "sliced_wae" / "index.html"))
    return parent / "sliced_wae"


PICTURES = ("latent", "samples", "reconstructions", "losses", "latent_grid")


def read_metrics(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_fit_leaves_everything_behind(folder):
    for name in PICTURES:
        picture = matplotlib.image.imread(folder / f"{name}.png")
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.02, f"{name} is blank"
    rows = read_metrics(folder)
    assert [row["epochs"] for row in rows] == [0, 1, 2]
    assert rows[2]["val/mse_per_pixel"] < rows[0]["val/mse_per_pixel"]
    assert "train/penalty" in rows[1]
    assert "train/loss" not in rows[0]
    assert "max_epochs: 2" in (folder / "config.yaml").read_text()
    assert list((folder / "logs" / "tensorboard").rglob("events*"))
    for name in ("last", "best"):
        torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_page_shows_every_picture_and_needs_no_network(folder):
    class Links(HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            links = [v for k, v in attributes if k in ("src", "href")]
            self.found = (*self.found, *links)

    page, parser = (folder / "index.html").read_text(), Links()
    parser.feed(page)
    assert {f"{name}.png" for name in PICTURES} <= set(parser.found)
    assert all((folder / link).is_file() for link in parser.found)
    assert not re.search(r"https?://|url\(|@import|<script", page)
    value = f"{read_metrics(folder)[-1]['val/prior_distance']:.4g}"
    assert f"<td>{value}</td>" in page


def test_resume_continues_in_place(folder):
    before = read_metrics(folder)
    ckpt = folder / "checkpoints" / "last.ckpt"
    code, out, _ = call("fit", "--ckpt_path", ckpt, "--trainer.max_epochs", 3,
                        "--trainer.enable_progress_bar", "false")  # fmt: skip
    assert code == 0
    assert str(folder / "index.html") in out
    rows = read_metrics(folder)
    assert rows[:3] == before
    assert [row["epochs"] for row in rows] == [0, 1, 2, 3]
    assert [path.name for path in folder.parent.iterdir()] == ["sliced_wae"]
    assert "ckpt_path: null" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_repeats_the_figures_of_the_run(folder, command):
    ckpt = folder / "checkpoints" / "last.ckpt"
    state = torch.load(ckpt, weights_only=True)
    code, out, _ = call(command, "--ckpt_path", ckpt, "--trainer.enable_progress_bar", "false")
    assert code == 0
    row = next(row for row in read_metrics(folder) if row["epochs"] == state["epoch"] + 1)
    shown = dict(re.findall(r"(val/\w+)\W+([\d.e-]+)", out))
    assert float(shown["val/prior_distance"]) == pytest.approx(row["val/prior_distance"])
    assert float(shown["val/mse_per_pixel"]) == pytest.approx(row["val/mse_per_pixel"])


def test_test_writes_the_full_evaluation(folder):
    code, out, err = call("test", "--ckpt_path", folder / "checkpoints" / "best.ckpt")
    assert (code, err) == (0, "")
    written = json.loads((folder / "test.json").read_text())
    assert written.pop("ckpt_path") == "best.ckpt"
    assert written.pop("features").startswith("digits classifier")
    model, data = (f(folder / "checkpoints" / "best.ckpt") for f in (runs.load, runs.load_data))
    assert written == pytest.approx(evaluation.evaluate(model, data))
    assert written["fd"] > written["fd_train"] > 0
    assert "test.json" in out
    assert evaluation.METRICS["fd"].name in out


def test_checkpoint_brings_its_data(folder, tmp_path, monkeypatch):
    """Also where it was moved; what is given on the command line comes first."""
    seen = []
    note = lambda self, **k: seen.append(k["datamodule"])  # noqa: E731
    monkeypatch.setattr(cli.CLI, "validate", note, raising=False)
    moved = tmp_path / "moved.ckpt"
    state = runs.read_checkpoint(folder / "checkpoints" / "last.ckpt", "--ckpt")
    state["datamodule_hyper_parameters"]["batch_size"] = 70
    torch.save(state, moved)
    assert call("validate", "--ckpt_path", moved)[0] == 0
    assert call("validate", "--data.batch_size", 30)[0] == 2
    assert call("validate", f"--ckpt_path={moved}", "--data.batch_size", 30)[0] == 0
    state |= {"data_class": "EightGaussians", "datamodule_hyper_parameters": {"n_train": 500}}
    torch.save(state, moved)
    assert call("validate", "--ckpt_path", moved)[0] == 0
    assert call("validate", "--ckpt_path", moved, "--data", "Digits")[0] == 0
    names = [(type(data).__name__, data.batch_size) for data in seen[:2]]
    assert names == [("Digits", 70), ("Digits", 30)]
    assert [type(data).__name__ for data in seen[2:]] == ["EightGaussians", "Digits"]


def test_another_model_begins_from_its_own_defaults(tmp_path):
    code, out, _ = call("fit", "--model", "VAE", "--runs_dir", tmp_path, "--trainer.max_epochs", 1)
    assert code == 0
    assert "8-D latent, gaussian prior" in out
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


@pytest.mark.parametrize("epochs", [5, 13])
def test_lines_in_place_of_a_progress_bar(epochs, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda *_: [])
    fit = ["fit", "--runs_dir", tmp_path, "--data.batch_size", 1200, "--trainer.max_epochs", epochs]
    _, out, err = call(*fit)
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    numbers = [int(re.match(rf"epoch (\d+) of {epochs}: train/loss", line)[1]) for line in lines]
    every = 1 if epochs == 5 else 2
    assert numbers == [k for k in range(1, epochs + 1) if k % every == 0 or k == epochs]
    row = read_metrics(tmp_path / "sliced_wae")[-1]
    assert f"train/loss {row['train/loss']:.4g}, val/loss {row['val/loss']:.4g}" in lines[-1]
    assert "it/s" not in out + err
    assert "epoch " not in call(*fit, "--trainer.enable_progress_bar", "false")[1]


def test_help_names_every_command():
    with pytest.raises(SystemExit) as end:
        call("--help")
    assert end.value.code == 0
    text = " ".join(cli.DESCRIPTION.split())
    for name in cli.OTHER_COMMANDS:
        assert f"`{name}`" in text
        assert callable(importlib.import_module(f"models.{name}").main)


def test_sample_draws_from_a_checkpoint(folder, tmp_path):
    ckpt, out = folder / "checkpoints" / "best.ckpt", tmp_path / "new" / "a.png"
    assert call("sample", "--ckpt", ckpt, "--n", 10, "--out", out)[0] == 0
    first = out.read_bytes()
    assert call("sample", "--ckpt", ckpt, "--n", 10, "--seed", 1, "--out", out)[0] == 0
    assert out.read_bytes() != first
    assert call("sample", "--ckpt", ckpt, "--n", 10, "--out", out)[0] == 0
    assert out.read_bytes() == first
    code, text, _ = call("sample", "--ckpt", ckpt)
    assert code == 0
    assert (folder / "samples_seed0.png").is_file()
    assert "samples_seed0.png" in text


def test_loaded_model_is_the_trained_one(folder):
    ckpt = folder / "checkpoints" / "last.ckpt"
    model = runs.load(ckpt)
    saved = torch.load(ckpt, weights_only=True)["state_dict"]
    assert type(model) is SlicedWAE
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    images = model.sample(7, torch.Generator().manual_seed(0))
    assert images.shape == (7, 1, 8, 8)
    assert not images.requires_grad


BAD = {
    "prior": (["fit", "--model.prior", "foo"], "prior must be one of 'uniform', 'ring'"),
    "dim": (["fit", "--model.prior", "ring", "--model.latent_dim", "3"], "must be 2 for the ring"),
    "weight": (["fit", "--model.weight=-1"], "weight must be finite and >= 0; got -1.0"),
    "type": (["fit", "--model.weight", "abc"], "Expected a <class 'float'>. Got value: abc"),
    "option": (["fit", "--model.bogus", "1"], "'bogus' is not accepted"),
    "command": (["train"], "invalid choice: 'train'"),
    "config": (["fit", "--config", "nope.yaml"], "does not exist"),
    "network": (["fit", "--model.network", "foo"], "network must be one of 'mlp', 'identity'"),
    "directions": (["fit", "--model.n_projections", "0"], "n_projections must be at least 1"),
    "batch": (["fit", "--data.batch_size", "0"], "batch_size must be in [1, 1257]; got 0"),
    "resume": (["fit", "--ckpt_path", "nope.ckpt"], "--ckpt_path must be an existing file"),
    "validate": (["validate"], "--ckpt_path must be given"),
    "logger": (["fit", "--trainer.logger", "false"], "--trainer.logger must not be false"),
    "name": (["fit", "--name", "a/b"], "must be the name of a folder"),
    "missing": (["sample", "--ckpt", "nope.ckpt"], "--ckpt must be an existing file"),
    "foreign": (
        ["sample", "--ckpt", "pyproject.toml"],
        "--ckpt must be a checkpoint of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    code, _, err = call(*arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["fit", "--runs_dir"], ["sample", "--out"]])
def test_unwritable_folder(arguments, folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "x.png"
    ckpt = ["--ckpt", folder / "checkpoints" / "best.ckpt"] if arguments[0] == "sample" else []
    code, _, err = call(*arguments, place, *ckpt)
    assert code == 2
    assert "must be writable" in err
    assert len(err.splitlines()) == 1


def test_a_bug_is_not_passed_off_as_bad_input(monkeypatch, tmp_path):
    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(SlicedWAE, "penalty", broken)
    with pytest.raises(ValueError, match="a bug"):
        call("fit", "--runs_dir", tmp_path, "--trainer.enable_progress_bar", "false")


def test_a_new_run_never_enters_an_old_folder(tmp_path):
    assert runs.unused(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert runs.unused(tmp_path, "a") == tmp_path / "a-3"


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_trains_from_its_own_defaults(name, tmp_path):
    first = ["--model.first_epochs", "1"] if issubclass(SYSTEMS[name], TwoStages) else []
    code, _, err = call(
        "fit", "--model", name, *first, "--trainer.max_epochs", "2", "--runs_dir", tmp_path
    )
    assert (code, err) == (0, "")


def test_model_options_beside_a_checkpoint_are_refused(folder):
    ckpt = folder / "checkpoints" / "last.ckpt"
    code, _, err = call("fit", "--ckpt_path", ckpt, "--model.lr", "0.1")
    assert code == 2
    assert "fit: --model must not be given beside --ckpt_path" in err

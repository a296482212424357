import csv
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import lightning as L
import matplotlib.image
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import models.__main__ as command_line
from models import cli, quality, runs
from models.autoencoder import Autoencoder
from models.data import Digits
from models.latent_distance import null_floor, prior_distance
from models.posterior import Posterior
from models.priors import Prior
from models.systems import SlicedWAE

ROOT = Path(__file__).parent.parent
# Lightning advises worker processes; the digits lie in memory. The rest is between libraries.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(model, epochs, callbacks=(), **fit):
    """The model after a few epochs on digits, with what is logged at the end."""
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Digits(), **fit)
    return model, trainer.callback_metrics


def build(**settings):
    """A SlicedWAE from seed 0."""
    L.seed_everything(0, verbose=False)
    return SlicedWAE(**{"prior": "uniform", "latent_dim": 2, **settings})


# --- data ---------------------------------------------------------------------------------------


def test_digits_split():
    data = Digits()
    (train, train_labels), (test, test_labels) = data.train[:], data.test[:]
    assert train.shape == (1257, 1, 8, 8)
    assert test.shape == (540, 1, 8, 8)
    assert train.min() == test.min() == 0
    assert train.max() == test.max() == 1
    per_class = torch.stack([train_labels.bincount(), test_labels.bincount()]).double()
    share = per_class[1] / per_class.sum(0)
    assert (share - 540 / 1797).abs().max() < 0.005  # stratified: half an image of a class of 174
    assert torch.equal(Digits().test[:][0], test)


# --- priors -------------------------------------------------------------------------------------

N = 50_000


def draw(name, dim=2, n=N):
    return Prior(name, dim).sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "mean_radius", "sd_radius"),
    [
        ("uniform", 0.7652, 0.2851),  # (sqrt 2 + asinh 1) / 3; E r^2 = 2/3
        ("circle", 0.5, 12**-0.5),  # U(0, 1)
        ("bowl", 0.75, (3 / 5 - 9 / 16) ** 0.5),  # density 3 r^2
        ("gaussian", 1.2533, 0.6551),  # Rayleigh: sqrt(pi/2), sqrt(2 - pi/2)
        ("ring", 1.00005, 0.01),
    ],
)
def test_radius_of_planar_priors(name, mean_radius, sd_radius):
    z = draw(name)
    radius = z.norm(dim=1)
    error = 5 * sd_radius / N**0.5
    assert abs(radius.mean() - mean_radius) < error
    assert abs(radius.std() - sd_radius) < 0.01 * sd_radius
    assert z.mean(0).abs().max() < 5 / N**0.5


def test_circle_and_bowl_by_share_within_half():
    assert abs((draw("circle").norm(dim=1) < 0.5).double().mean() - 1 / 2) < 0.01
    assert abs((draw("bowl").norm(dim=1) < 0.5).double().mean() - 1 / 8) < 0.01


def test_ring_is_stratified_and_shuffled():
    n = 90
    z = draw("ring", n=n)
    angle = torch.atan2(z[:, 1], z[:, 0])
    slots = (angle / (2 * torch.pi / n)).round().long() % n
    assert slots.unique().numel() == n  # spacing 0.07, noise 0.01: one point in every slot
    assert not torch.equal(slots, slots.sort().values)


def test_independent_draw_of_the_ring_is_not_stratified():
    n = 90
    z = Prior("ring", 2).sample_independent(n, torch.Generator().manual_seed(0))
    slots = (torch.atan2(z[:, 1], z[:, 0]) / (2 * torch.pi / n)).round().long() % n
    assert z.shape == (n, 2)
    assert slots.unique().numel() < 0.75 * n  # independent points leave 1/e of the slots empty


@pytest.mark.parametrize("name", ["uniform", "gaussian"])
def test_priors_of_any_dimension(name):
    variance = {"uniform": 1 / 3, "gaussian": 1.0}[name]
    covariance = draw(name, dim=5).T.cov()
    assert (covariance - variance * torch.eye(5)).abs().max() < 0.02


def test_prior_draws_repeat_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    for name in ("uniform", "ring", "circle", "bowl", "gaussian"):
        assert torch.equal(draw(name, n=50), draw(name, n=50))
    assert torch.equal(torch.get_rng_state(), before)


# --- evaluation ---------------------------------------------------------------------------------


def test_prior_distance_of_a_shift_is_its_square_over_d():
    prior, shift = Prior("gaussian", 2), torch.tensor([3.0, 4.0])
    codes = prior.sample(4000, torch.Generator().manual_seed(7)) + shift
    assert abs(prior_distance(codes, prior) - 25 / 2) < 0.05 * 25 / 2


@pytest.mark.parametrize("name", ["uniform", "ring", "circle", "bowl", "gaussian"])
def test_null_floor_is_what_a_perfect_match_gives(name):
    prior = Prior(name, 2)
    floor = null_floor(prior, 540)
    codes = [prior.sample_independent(540, torch.Generator().manual_seed(s)) for s in range(9, 15)]
    mean = torch.stack([prior_distance(c, prior) for c in codes]).mean()
    assert 0 < floor < 0.02
    assert floor / 2 < mean < 2 * floor


# --- the objective ------------------------------------------------------------------------------


def test_weight_zero_is_the_plain_autoencoder_bit_for_bit():
    model, _ = trained(build(weight=0.0), epochs=2)

    plain = build(weight=0.0)
    encoder, decoder = plain.encoder, plain.decoder
    optimizer = torch.optim.Adam([*plain.parameters()], lr=1e-3, betas=(0.5, 0.999))
    loader = Digits().train_dataloader()
    steps = 2 * len(loader)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [math.ceil(0.6 * steps)], gamma=0.2)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for images, _ in loader:
            loss = (decoder(encoder(images)) - images).square().sum((1, 2, 3)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), name


def test_penalty_changes_no_batch_and_no_global_draw():
    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            self.seen = [*getattr(self, "seen", []), batch[1]]

    ends = []
    for weight in (0.0, 10.0):
        recorder = Recorder()
        trained(build(weight=weight), epochs=2, callbacks=[recorder])
        ends.append((torch.cat(recorder.seen), torch.get_rng_state()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_penalty_pulls_the_codes_to_the_prior():
    distance = {}
    for weight in (0.0, 10.0):
        _, metrics = trained(build(weight=weight), epochs=4)
        distance[weight] = metrics["val/prior_distance"]
    assert distance[10.0] < distance[0.0] / 20


def test_objective_does_not_depend_on_batch_size():
    model = build()
    images = Digits().test[:20][0]
    codes, points = model.encoder(images), draw("uniform", n=20)
    once = model.penalty(codes, points, torch.Generator().manual_seed(3))
    twice = model.penalty(codes.repeat(2, 1), points.repeat(2, 1), torch.Generator().manual_seed(3))
    torch.testing.assert_close(twice, once)
    errors = (model.decoder(codes) - images).square().sum((1, 2, 3))
    one, two = (model.evaluate(Posterior(codes.repeat(k, 1)), errors.repeat(k)) for k in (1, 2))
    torch.testing.assert_close(one["reconstruction"], two["reconstruction"])
    torch.testing.assert_close(one["mse_per_pixel"] * 64, one["reconstruction"])


def test_base_class_has_no_penalty_of_its_own():
    with pytest.raises(NotImplementedError):
        Autoencoder().penalty(torch.zeros(2, 2), torch.zeros(2, 2), None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_training_step_in_other_dtypes(dtype):
    model = build(latent_dim=3).to(dtype)
    codes = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    points = model.prior.sample(4, torch.Generator().manual_seed(0)).to(dtype)
    model.penalty(codes, points, torch.Generator().manual_seed(0)).backward()
    assert codes.grad.dtype == dtype
    assert codes.grad.abs().sum() > 0


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, _ = trained(build(), epochs=4, callbacks=keep[:1])
    resumed = build(lr=0.5)  # the step size, as everything, has to come from the checkpoint
    torch.nn.init.zeros_(resumed.encoder[1].weight)
    trained(resumed, epochs=4, callbacks=keep[1:], ckpt_path=tmp_path / "epoch=1.ckpt")
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_last_checkpoint_is_of_the_last_epoch_and_best_of_the_best(tmp_path):
    class Worse(SlicedWAE):
        def evaluate(self, posterior, errors):
            return {**super().evaluate(posterior, errors), "loss": float(self.current_epoch)}

    trained(Worse(), epochs=3, callbacks=cli.callbacks(tmp_path))
    saved = {
        path.name: torch.load(path, weights_only=True)["epoch"]
        for path in (tmp_path / runs.CHECKPOINTS).iterdir()
    }
    assert saved == {"best.ckpt": 0, "last.ckpt": 2}


# --- command line -------------------------------------------------------------------------------


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


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["models", *map(str, arguments)])
        code = command_line.main()
        return code, *capsys.readouterr()

    return run


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


def test_resume_continues_in_place(folder, call):
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
def test_evaluation_repeats_the_figures_of_the_run(folder, call, command):
    ckpt = folder / "checkpoints" / "last.ckpt"
    state = torch.load(ckpt, weights_only=True)
    code, out, _ = call(command, "--ckpt_path", ckpt, "--trainer.enable_progress_bar", "false")
    assert code == 0
    row = next(row for row in read_metrics(folder) if row["epochs"] == state["epoch"] + 1)
    shown = dict(re.findall(r"(val/\w+)\W+([\d.e-]+)", out))
    assert float(shown["val/prior_distance"]) == pytest.approx(row["val/prior_distance"])
    assert float(shown["val/mse_per_pixel"]) == pytest.approx(row["val/mse_per_pixel"])


def test_sample_draws_from_a_checkpoint(folder, call, tmp_path):
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
def test_bad_input_is_one_line_and_exit_code_2(case, call, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    code, _, err = call(*arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["fit", "--runs_dir"], ["sample", "--out"]])
def test_unwritable_folder(arguments, folder, call, tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "x.png"
    ckpt = ["--ckpt", folder / "checkpoints" / "best.ckpt"] if arguments[0] == "sample" else []
    code, _, err = call(*arguments, place, *ckpt)
    assert code == 2
    assert "must be writable" in err
    assert len(err.splitlines()) == 1


def test_a_bug_is_not_passed_off_as_bad_input(call, monkeypatch, tmp_path):
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


# --- quality ------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussian_features():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = 1 + 1 + 4  # |shift|^2 + sum (scale - 1)^2
    assert quality.frechet(x, y * scale + shift) == pytest.approx(expected, rel=0.03)
    assert abs(quality.frechet(x, x)) < 1e-9

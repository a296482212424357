"""Every config builds what its name says, and what the configs of one data set share."""

import inspect

import lightning as L
import pytest
import torch
import yaml
from models_support import IGNORED, ROOT, one_thread  # noqa: F401

from models import cli
from models.compare.rows import ROWS
from models.data import DATA
from models.systems import SYSTEMS

pytestmark = IGNORED

CONFIGS = {path.stem: path for path in sorted((ROOT / "models" / "configs").glob("*.yaml"))}
DEFAULT = cli.CONFIG.stem
SHAPES = {
    "digits": (1, 8, 8),
    "eight_gaussians": (2,),
    "mnist": (1, 28, 28),
    "fashion": (1, 28, 28),
    "celeba": (3, 64, 64),
}
CLASSES = {
    "digits": "Digits",
    "eight_gaussians": "EightGaussians",
    "mnist": "MNIST",
    "fashion": "FashionMNIST",
    "celeba": "CelebA",
}


def read(name):
    return yaml.safe_load(CONFIGS[name].read_text())


def data_set(name):
    return next(data for data in SHAPES if name.startswith(data + "_"))


OF_DATA = [name for name in CONFIGS if name != DEFAULT]


@pytest.mark.parametrize("name", OF_DATA)
def test_config_says_whose_data_which_batch_and_how_long(name):
    config = read(name)
    assert {"class_path", "init_args"} == config["data"].keys()
    assert "batch_size" in config["data"]["init_args"]
    assert "max_epochs" in config["trainer"]
    assert config["name"] == name


@pytest.mark.parametrize("name", OF_DATA)
def test_config_builds_its_model_and_names_its_data(name):
    config, data = read(name), data_set(name)
    model = config["model"]
    system = SYSTEMS[model["class_path"].removeprefix("models.systems.")]
    built = system(**model["init_args"], shape=SHAPES[data])
    with torch.no_grad():
        assert built.eval().sample(2).shape == (2, *SHAPES[data])
    assert config["data"]["class_path"] == f"models.data.{CLASSES[data]}"
    inspect.signature(DATA[CLASSES[data]]).bind(**config["data"]["init_args"])


@pytest.mark.parametrize("name", OF_DATA)
def test_config_has_a_row_of_its_own(name):
    assert name.removeprefix(data_set(name) + "_") in {row.system for row in ROWS}


@pytest.mark.parametrize("data", SHAPES)
def test_configs_of_a_data_set_share_prior_dimension_batch_and_budget(data):
    configs = [read(name) for name in OF_DATA if data_set(name) == data]
    for section, key in [("model", "prior"), ("model", "latent_dim"), ("data", "batch_size")]:
        assert len({config[section]["init_args"][key] for config in configs}) == 1, key
    assert len({config["trainer"]["max_epochs"] for config in configs}) == 1
    assert any(config["name"] == f"{data}_autoencoder" for config in configs)


@pytest.mark.parametrize("name", OF_DATA)
def test_two_stage_configs_say_how_they_divide_the_budget(name):
    config = read(name)
    first = config["model"]["init_args"].get("first_epochs")
    joint = config["model"]["init_args"].get("schedule") == "joint"
    two_stages = config["model"]["class_path"].endswith((".StackedWAE", ".LatentOT"))
    if two_stages and not joint:
        assert 0 <= first < config["trainer"]["max_epochs"]
    else:
        assert first is None or joint


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("mnist_wae_mmd", 10 / 0.05),  # published: 10 beside 0.05 of the squared error of an image
        ("mnist_wae_gan", 10 / 0.05),
        ("celeba_wae_mmd", 100 / 0.05 / 4),  # pixels there in [-1, 1]: 4 times the squared error
        ("celeba_wae_gan", 1 / 0.05 / 4),
        ("mnist_sliced_wae", 1),  # beside the squared error already
        ("fashion_sliced_wae", 100),
        ("celeba_sliced_wae", 100),
        ("digits_autoencoder", 0),
    ],
)
def test_published_weights_are_beside_the_squared_error_of_an_image(name, weight):
    assert read(name)["model"]["init_args"]["weight"] == pytest.approx(weight)


TRAINABLE = [name for name in OF_DATA if name.startswith(("digits", "eight_gaussians"))]


@pytest.mark.parametrize("name", [*TRAINABLE, DEFAULT])
def test_config_trains_a_batch(name):
    before = L.seed_everything(0, verbose=False)
    fitted = cli.CLI(
        ["fit", "--config", str(CONFIGS[name]), "--trainer.fast_dev_run", "true",
         "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false",
         "--trainer.enable_progress_bar", "false", "--seed_everything", str(before)]
    )  # fmt: skip
    assert fitted.trainer.global_step == 1
    # Nothing is left of the default config, whose arguments other classes know too.
    config = read(name)
    expected = SYSTEMS[type(fitted.model).__name__](
        **config["model"]["init_args"], shape=fitted.datamodule.shape
    )
    found = {k: v for k, v in fitted.model.hparams.items() if not k.startswith("_")}
    assert found == dict(expected.hparams)
    assert fitted.datamodule.hparams.batch_size == config["data"]["init_args"]["batch_size"]

"""README.md: its code runs as it is printed, and the first example does what it says."""

import re
from pathlib import Path

import matplotlib.image
import pytest
import torch

from otkernels import gaussian_wasserstein

README = Path(__file__).parents[1] / "README.md"
EXAMPLE, *OTHERS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_first_example_has_ten_lines_and_makes_digits():
    assert len([line for line in EXAMPLE.splitlines() if line and "import" not in line]) <= 10
    torch.manual_seed(0)
    names = {}
    exec(EXAMPLE, names)
    digits, net = names["digits"], names["net"]
    made = net(torch.randn(len(digits), 16)).detach()
    # Every pixel as in the digits, but drawn on its own.
    pixels = torch.stack([column[torch.randperm(len(digits))] for column in digits.T], 1)
    assert gaussian_wasserstein(made, digits) < gaussian_wasserstein(pixels, digits) / 2
    assert to_nearest(made, digits) < 0.85 * to_nearest(pixels, digits)
    assert to_nearest(digits, made) < 0.85 * to_nearest(digits, pixels)
    assert matplotlib.image.imread("digits.png").shape[:2] == (8, 80)


def to_nearest(x, y):
    return torch.cdist(x, y).min(1).values.mean()


@pytest.mark.parametrize("code", OTHERS)
def test_the_other_code_runs(code):
    exec(code, {})

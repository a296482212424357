"""Shared set-up: the Triton interpreter where there is no GPU, one seed, poisoned memory."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty returns NaN, so an element that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def few_steps(monkeypatch):
    """Interpreted, Triton's roots and Lyapunov equations take the steps of a condition of 1e8."""
    if not torch.cuda.is_available():
        kernels = pytest.importorskip("otkernels.kernels.sqrtm")
        for name in ("OCTAVES", "DEEP"):
            monkeypatch.setattr(kernels, name, 7)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""Peers of the benchmarks that compute something else, or run on a GPU only."""

import builtins
import dataclasses
import os
import sys
import types

import pytest
import torch

import otkernels
from benchmarks import cases, clocks, measure, memory, rates, records
from benchmarks.case import Provider
from benchmarks.families import (
    bures_reference,
    cupy_eigh,
    frechet_peers,
    gaussian,
    kid,
    mmd,
    sinkhorn,
    sliced,
    sqrtm,
)
from benchmarks.run import run


@pytest.fixture(autouse=True)
def _no_rates(monkeypatch):
    """Nobody here looks at rooflines, and rates take a second to measure."""
    known = rates.Rates(copied=1e9, products={"float32": 1e9}, exponentials=1e6, comparisons=1e6)
    monkeypatch.setattr(rates, "measured", lambda device: known)


def provider(family, name):
    return next(p for p in family.providers if p.name == name)


def errors(family, name, shape, mode, change=lambda value: value):
    """Of a provider, its value changed, against its own sliced_reference."""
    peer, inputs = provider(family, name), family.inputs(shape)
    function = peer.make()
    call = measure.Call(lambda *given: change(function(*given)), inputs, mode, family.clouds)
    return measure.check(call, (peer.expect or family.expect)(*inputs), peer.own_error(shape))


# --- the references -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", kid.SHAPES["smoke"], ids=lambda shape: shape.name)
def test_kid_reference_is_the_definition(shape):
    inputs = [t.double() for t in kid.FAMILY.inputs(shape)]
    expected = kid.expect(*inputs)
    for unbiased in (True, False):
        call = measure.Call(
            lambda x, y, u=unbiased: otkernels.mmd(
                x, y, kernel="polynomial", unbiased=u, impl="torch"
            ),
            inputs,
            "forward_backward_both",
        )
        found = measure.check(call, expected)
        assert found.ok is unbiased
        assert max(found.bound_value, found.bound_grad) < 1e-13


@pytest.mark.parametrize("block", [1, 2**24])
def test_sinkhorn_reference_in_blocks_is_geomloss(block, monkeypatch):
    monkeypatch.setattr(sinkhorn, "BLOCK", block)
    for shape in sinkhorn.SHAPES["smoke"]:
        inputs = [t.double() for t in sliced.inputs(shape)]
        call = measure.Call(sinkhorn.geomloss("tensorized"), inputs, "forward_backward", ("x",))
        assert measure.check(call, sinkhorn.expect(*inputs)).grad < 1e-13


def test_the_gaussian_reference_of_samples_divides_by_one_less():
    x, y = (t.double() for t in gaussian.inputs(gaussian.SHAPES["smoke"][0]))
    expected = provider(gaussian.FAMILY, "torchmetrics").expect(x, y)
    covs = [torch.cov(t.mT) for t in (x, y)]
    apart = (x.mean(0) - y.mean(0)).square().sum()
    torch.testing.assert_close(expected.value, apart + bures_reference.distance(*covs)[0])
    x.requires_grad_()
    stretched = otkernels.gaussian_wasserstein(
        frechet_peers.stretched(x), frechet_peers.stretched(y), impl="torch"
    )
    (grad,) = torch.autograd.grad(stretched, x)
    torch.testing.assert_close(expected.grads[0], grad)


# --- the gate -----------------------------------------------------------------------------------

PEERS = [
    (kid.FAMILY, "torchmetrics", "forward_backward_both"),
    (gaussian.FAMILY, "torchmetrics", "forward"),
    (sinkhorn.FAMILY, "geomloss", "forward_backward"),
    (sinkhorn.FAMILY, "mmd", "forward_backward"),
]


@pytest.mark.parametrize(("family", "name", "mode"), PEERS)
def test_gate_passes_a_peer_and_refuses_it_when_it_is_off(family, name, mode):
    shape = family.shapes["smoke"][0]
    assert errors(family, name, shape, mode).ok
    for factor in (0.5, 0.999, 1.001, 2):
        assert not errors(family, name, shape, mode, lambda value, f=factor: f * value).ok


def test_a_peer_without_gradient_is_missing_with_that_reason(monkeypatch, tmp_path):
    only = dataclasses.replace(
        gaussian.FAMILY,
        providers=tuple(provider(gaussian.FAMILY, name) for name in ("otkernels", "torchmetrics")),
        shapes={"smoke": gaussian.SHAPES["smoke"][:1]},
    )
    monkeypatch.setattr(cases, "FAMILIES", (only,))
    out = tmp_path / "cpu.jsonl"
    assert run("cpu", smoke=True, out=out, seconds=0) == []
    found = {
        line["mode"]: line["missing"]
        for line in records.read([out])
        if line["provider"] == "torchmetrics"
    }
    assert found == {
        "forward": None,
        "forward_backward": f"NotImplementedError: {measure.NO_GRADIENT}",
        "forward_backward_both": f"NotImplementedError: {measure.NO_GRADIENT}",
    }


# --- peers that run on a GPU only ---------------------------------------------------------------


def test_peers_of_a_gpu_are_left_out_elsewhere_and_never_ours():
    for family in cases.FAMILIES:
        for peer in family.providers:
            if peer.name in ("cupy", "flash-sinkhorn"):
                for shape in family.shapes["smoke"]:
                    assert peer.left_out("smoke", shape) == "runs on a GPU only"
                assert not peer.ours
                assert any(peer.left_out("cuda", shape) is None for shape in family.shapes["cuda"])


@pytest.fixture
def flash(monkeypatch):
    """A package in the place of FlashSinkhorn, of GeomLoss' conventions; what it was asked for."""
    asked = {}

    class SamplesLoss:
        def __init__(self, loss, *, half_cost=False, **options):
            assert half_cost
            asked.update(options)
            self.loss = mmd.samples_loss("tensorized")(loss, backend="tensorized", **options)

        def __call__(self, x, y):
            return self.loss(x, y)

    module = types.ModuleType("flash_sinkhorn")
    module.SamplesLoss = SamplesLoss
    monkeypatch.setitem(sys.modules, "flash_sinkhorn", module)
    return asked


def test_flash_sinkhorn_is_asked_for_the_divergence_of_the_reference(flash):
    shape = sinkhorn.SHAPES["smoke"][1]
    assert errors(sinkhorn.FAMILY, "flash-sinkhorn", shape, "forward_backward").ok
    diameter, blur = sinkhorn.lengths(shape.D)
    assert flash == {"blur": blur, "diameter": diameter, "scaling": 0.5, "debias": True}


def test_what_tf32_may_add_does_not_hide_a_wrong_divergence(flash):
    """At the D of the GPU's shapes a value off by a hundredth, and a gradient off by half."""
    shape = dataclasses.replace(sinkhorn.SHAPES["cuda"][0], N=256)
    found = errors(sinkhorn.FAMILY, "flash-sinkhorn", shape, "forward_backward")
    assert found.ok
    assert found.bound_value < 0.01
    assert found.bound_grad < 0.5


def test_flash_sinkhorn_and_cupy_are_missing_without_their_packages(monkeypatch):
    for module, make in (("flash_sinkhorn", sinkhorn.flash), ("cupy", cupy_eigh.cupy_eigh)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError):
            make()


@pytest.mark.parametrize("family", [gaussian.FAMILY, sqrtm.FAMILY], ids=lambda f: f.op)
def test_distances_by_the_decomposition_of_cupy(family, monkeypatch):
    for module in (sqrtm, gaussian.bures_peers):
        monkeypatch.setattr(module, "cupy_eigh", lambda: torch.linalg.eigh)
    for shape in family.shapes["smoke"][:2]:
        assert errors(family, "cupy", shape, family.modes[-1]).ok
        off = errors(family, "cupy", shape, family.modes[-1], lambda value: 1.001 * value)
        assert not off.ok


# --- what a failed or foreign peer leaves -------------------------------------------------------


def test_memory_of_a_call_that_ran_out_of_it_is_given_back(monkeypatch, tmp_path):
    held = []

    def greedy(x, y, projections):
        big = x.clone()
        cycle = [big]
        cycle.append(cycle)
        held.append(torch.utils.weak.WeakTensorKeyDictionary({big: None}))
        raise torch.OutOfMemoryError("out of memory")

    def checks(x, y, projections):
        assert not list(held[0])
        return sliced.careful(x, y, projections)

    ours = provider(sliced.FAMILY, "otkernels")
    family = dataclasses.replace(
        sliced.FAMILY,
        providers=(
            ours,
            Provider("greedy", "", lambda: greedy),
            Provider("next", "", lambda: checks),
        ),
    )
    monkeypatch.setattr(cases, "FAMILIES", (family,))
    out = tmp_path / "cpu.jsonl"
    assert run("cpu", pattern="B1-.*forward_backward$", smoke=True, out=out, seconds=0) == []
    missing = {line["provider"]: line["missing"] for line in records.read([out])}
    assert missing == {
        "otkernels": None,
        "greedy": "OutOfMemoryError: out of memory",
        "next": None,
    }


def test_memory_is_released_without_a_gpu():
    memory.release()
    assert not torch.cuda.is_initialized()


def test_no_capture_is_tried_of_what_launches_past_torch(monkeypatch):
    tried = []
    monkeypatch.setattr(clocks, "graph_pool", lambda: "pool")
    monkeypatch.setattr(clocks, "Captured", lambda call, pool: tried.append((call, pool)) or call)
    from benchmarks.run import _Prepared

    family = dataclasses.replace(
        sliced.FAMILY,
        providers=(
            Provider("torch", "", None),
            Provider("past", "", None, uncapturable="not tried: because"),
        ),
    )
    prepared = object.__new__(_Prepared)
    prepared.case = cases.Case(family, family.shapes["smoke"][0], "forward")
    prepared.calls = {"torch": "a", "past": "b"}
    captured, failed = prepared._capture()
    assert captured == {"torch": "a"}
    assert failed == {"past": "not tried: because"}
    assert tried == [("a", "pool")]


def test_all_that_launches_past_torch_says_so():
    for family in cases.FAMILIES:
        for peer in family.providers:
            assert (peer.uncapturable is not None) is (peer.name in ("keops", "cupy"))


def test_pot_leaves_other_libraries_alone(monkeypatch):
    """JAX, where it is installed, would take most of a GPU's memory when POT asks it."""
    imported, asked = builtins.__import__, set()

    def spy(name, within=None, *rest):
        if (within or {}).get("__name__", "").startswith("ot."):
            asked.add(name.split(".")[0])
        return imported(name, within, *rest)

    for name in [name for name in sys.modules if name.split(".")[0] == "ot"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in os.environ if name.startswith("POT_BACKEND")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(builtins, "__import__", spy)
    x = torch.arange(6.0).view(3, 2)
    assert sliced.pot()(x, x + 1, torch.eye(2)) == pytest.approx(1)
    assert "torch" in asked
    assert not asked & {"jax", "cupy", "tensorflow"}

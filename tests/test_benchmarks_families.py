import dataclasses

import pytest
import torch

from benchmarks import cases, measure, records
from benchmarks.families import sliced_reference, to_normal
from benchmarks.run import run

COMPILED = {"torch.compile", "keops"}  # need a compiler, which takes many seconds


def without_compilers(family):
    kept = tuple(p for p in family.providers if p.name not in COMPILED)
    return dataclasses.replace(family, providers=kept)


OTHERS = {family.op: without_compilers(family) for family in cases.FAMILIES[1:]}


@pytest.mark.parametrize("op", OTHERS)
def test_every_provider_passes_the_gate(op, tmp_path, monkeypatch):
    family, out = OTHERS[op], tmp_path / "cpu.jsonl"
    monkeypatch.setattr(cases, "FAMILIES", (family,))
    both = f"^{op}/.*/{family.modes[-1]}$"
    assert run("cpu", pattern=both, smoke=True, out=out, seconds=0) == []
    lines = records.read([out])
    allowed = {None, f"NotImplementedError: {measure.NO_GRADIENT}"}
    assert {line["missing"] for line in lines} <= allowed
    assert {(line["shape"], line["provider"]) for line in lines} == {
        (shape.name, provider.name)
        for shape in family.shapes["smoke"]
        for provider in family.providers
        if provider.left_out("smoke", shape) is None
    }


@pytest.mark.parametrize("op", OTHERS)
@pytest.mark.parametrize("cloud", [0, 1])
def test_gate_refuses_a_gradient_of_another_point(op, cloud):
    """The slack for open orders does not hide a wrong gradient to any one point."""
    family = OTHERS[op]
    if cloud >= len(family.clouds):
        pytest.skip("one cloud")
    inputs = family.inputs(family.shapes["smoke"][0])
    loss = family.providers[0].make()

    def wrong(*given):
        first = given[cloud].reshape(-1, given[cloud].shape[-1])[0]
        return loss(*given) + 1e-3 * (first - first.detach()).sum()

    for function, ok in ((loss, True), (wrong, False)):
        call = measure.Call(function, inputs, family.modes[-1], family.clouds)
        assert measure.check(call, family.expect(*inputs)).ok is ok


def test_two_sample_losses_draw_anew_in_each_call_and_are_checked_on_one_draw():
    inputs = to_normal.inputs(cases.select("smoke", "to_normal/B1")[0].shape)
    provider = next(p for p in to_normal.FAMILY.providers if p.name == "two-sample")
    call = measure.Call(provider.make(), inputs, "forward_backward", ("x",))
    assert call() != call()
    assert measure.check(call, provider.expect(*inputs)).ok
    assert not measure.check(call, to_normal.expect(*inputs)).ok


def test_every_goal_can_be_measured():
    """Its shape is there, its peer is not left out at it and, for a graph, can be captured."""
    for family in cases.FAMILIES:
        for goal in family.goals:
            (shape,) = (s for s in family.shapes[goal.device] if s.name == goal.shape)
            for peer in {"otkernels", goal.against} - {None}:
                (found,) = (p for p in family.providers if p.name == peer)
                assert found.left_out(goal.device, shape) is None, (family.op, goal)
                assert goal.clock != "graph" or found.uncapturable is None, (family.op, goal)


def test_slack_covers_both_orders_of_weighted_points():
    """Two points on one projection: the gradient of either order, and nothing beyond it."""
    u = torch.tensor([[0.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 3.0, 7.0]], dtype=torch.float64)
    mass_u = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mass_v = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    theta = torch.ones(1, 1, dtype=torch.float64)
    slack = sliced_reference.order_slack(u, mass_u, v, mass_v, theta, 1e-7)[:, 0]
    # Levels 0.1 to 0.6 are open to both; opposite stand 0, 3 and 7.
    torch.testing.assert_close(slack, 2 * mass_u * torch.tensor([0.0, 7.0, 7.0, 0.0]).double())

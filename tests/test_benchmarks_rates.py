"""Measured ceilings of a device, the lower bounds made of them, and the facts beside them."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cases, facts, rate_kernels, rates, records, roofline
from benchmarks.case import Shape
from benchmarks.families import bandwidths, energy, mmd, ragged, sliced, to_normal, unequal
from benchmarks.run import run

ROOT = Path(__file__).resolve().parent.parent
RATES = rates.Rates(copied=1e9, products={"float32": 1e9}, exponentials=1e6, comparisons=1e6)
# Points of a batch of two, no two sizes alike, few enough to count by hand.
SMALL = Shape(2, 3, 5, 7, "", 4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_ms(monkeypatch):
    """A clock on which every call takes 1 ms; it really makes the call. Sizes are small."""
    monkeypatch.setattr(rates, "SECONDS", 0)
    monkeypatch.setattr(rates, "COPIED", {"cpu": 2**21})
    monkeypatch.setattr(rates, "SIDE", {"cpu": 32})
    monkeypatch.setattr(rates, "CACHED", (2**10, 2**12))

    def read(call):
        call()
        return 1.0

    return read


# --- rates --------------------------------------------------------------------------------------


def test_rates_are_work_a_second(one_ms, threads):
    torch.set_num_threads(1)
    found = rates._measured("cpu", one_ms, rates.by_torch)
    assert found.copied == 2 * 2**21 * 1000  # read and written
    with FlopCounterMode(display=False) as counter:
        torch.mm(*torch.ones(2, 32, 32))
    assert found.products == dict.fromkeys(("float64", "float32"), counter.get_total_flops() * 1e3)
    assert found.exponentials == found.comparisons == 2**12 * 1000


def test_rates_are_those_of_the_fastest_call():
    times = itertools.chain([7.0, 3.0, 2.0, 5.0, 4.0], itertools.repeat(6.0))
    assert rates._rate(10, lambda: None, lambda call: next(times)) == 5000


def test_rates_of_this_cpu_are_measured_once_and_soon():
    rates.measured.cache_clear()
    start = time.process_time()
    found = rates.measured("cpu")
    assert time.process_time() - start < 2 * torch.get_num_threads()
    assert rates.measured("cpu") is found
    # Any unit but "a second" is off by a thousand.
    assert 1e8 < found.copied < 1e13
    assert 1e9 < found.products["float64"] <= found.products["float32"] < 1e14
    assert 1e7 < found.exponentials < found.comparisons < 1e14
    assert str(found).startswith(f"measured: copy {found.copied / 1e9:.3g} GB/s; products float64")


def test_a_product_in_tf32_leaves_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    with rates._float32_products("high"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


# --- the kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_every_step_takes_an_exponential(steps, device):
    x = rate_kernels.numbers(2, torch.float32, device)
    rate_kernels.exponentials(x, out := torch.empty_like(x), steps)
    expected = x.cpu().numpy()
    for _ in range(steps):
        expected = np.exp2(-expected)
    np.testing.assert_allclose(out.cpu(), expected, rtol=1e-6)


def _one_round(x):
    a, b, c, d = x
    a, b = np.minimum(a, b), np.maximum(a, b)
    c, d = np.minimum(c, d), np.maximum(c, d)
    b, c = np.minimum(b, c), np.maximum(b, c)
    d, a = np.minimum(d, a), np.maximum(d, a)
    return np.stack([a, b, c, d])


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_every_step_orders_four_pairs(steps, device):
    x = rate_kernels.numbers(2, torch.int32, device)
    rate_kernels.comparisons(x, out := torch.empty_like(x), steps)
    expected = x.cpu().numpy().reshape(2, 4, -1).swapaxes(0, 1)
    for _ in range(steps):
        before, expected = expected, _one_round(expected)
        assert not (before == expected).all(0).any()  # it never comes to rest
    np.testing.assert_array_equal(out.cpu().reshape(2, 4, -1), expected.swapaxes(0, 1))


def test_rates_of_the_kernels_count_what_they_do(one_ms, monkeypatch):
    monkeypatch.setattr(rates, "PROGRAMS", 1)
    monkeypatch.setattr(rates, "EXPONENTIALS", 2)
    monkeypatch.setattr(rates, "COMPARISONS", 3)
    exponentials, comparisons = rates.by_kernels("cpu", one_ms)
    assert exponentials == 2 * rate_kernels.NUMBERS * 1000
    assert comparisons == 3 * 2 * rate_kernels.NUMBERS * 1000


def test_the_loops_do_little_else_on_sm_90():
    """Whole steps of eight numbers a thread; see the comments at the kernels."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.rate_loops"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loops = json.loads(done.stdout)
    each = rate_kernels.NUMBERS // 128
    for name, opcode, count, share in (
        ("exponentials", "MUFU.EX2", each, 0.45),
        ("comparisons", "VIMNMX", each * rate_kernels.COMPARISONS, 0.9),
    ):
        loop = loops[name]
        assert loop[opcode] > 0, loop
        assert loop[opcode] % count == 0, loop
        assert loop[opcode] / sum(loop.values()) > share, loop


# --- lower bounds -------------------------------------------------------------------------------


def _family(**costs):
    names = ("bytes", "flops", "exponentials", "comparisons")
    values = {name: costs.get(name, 0) for name in names}
    functions = {name: lambda *_, value=value: value for name, value in values.items()}
    return dataclasses.replace(sliced.FAMILY, **functions)


@pytest.mark.parametrize(
    ("name", "by", "work"),
    [
        ("bytes", "bytes", 3e6),
        ("flops", "products", 3e6),
        ("exponentials", "exponentials", 3e3),
        ("comparisons", "comparisons", 3e3),
    ],
)
def test_the_slowest_cost_is_the_bound(name, by, work):
    others = {"bytes": 2e6, "flops": 2e6, "exponentials": 2e3, "comparisons": 2e3}
    family = _family(**others | {name: work})
    assert roofline.bound(family, SMALL, 0, RATES) == (pytest.approx(3.0), by)


def test_split_products_count_three_and_bfloat16_does_not_count():
    products = {"float64": 9.0, "float32": 2.0, "bfloat16": 99.0}
    assert roofline.float32_products(products) == 2
    assert roofline.float32_products(products | {"tf32": 9.0}) == 3
    assert roofline.float32_products(products | {"tf32": 9.0, "float16": 15.0}) == 5


def _orders(n):
    return math.log2(math.factorial(n))


def test_comparisons_tell_all_orders_apart():
    for family in (sliced.FAMILY, unequal.SIZES):
        assert family.comparisons(SMALL, 1) == pytest.approx(2 * 7 * (_orders(3) + _orders(4)))
    assert to_normal.FAMILY.comparisons(SMALL, 1) == pytest.approx(2 * 7 * _orders(3))
    # Of a row: orders of x, orders of y, ways to merge the levels.
    rows = _orders(3) + _orders(4) + math.log2(math.comb(7, 3))
    assert unequal.WEIGHTS.comparisons(SMALL, 1) == pytest.approx(2 * 7 * rows)


def test_costs_of_ragged_problems_leave_out_padding():
    shape = dataclasses.replace(SMALL, N=9, M=8)
    *_, x_lengths, y_lengths = ragged.inputs(shape)
    n, m = x_lengths.sum().item(), y_lengths.sum().item()
    assert n < 2 * 9  # else this shape has no padding
    assert ragged.FAMILY.bytes(shape, 1, 4) == 4 * 5 * (n + m + 2 * 9 + 7)
    assert ragged.FAMILY.flops(shape, 1) == 2 * 5 * 7 * (2 * n + m)
    assert ragged.FAMILY.flops(shape, 2) == 2 * 5 * 7 * 2 * (n + m)
    orders = sum(_orders(k) for k in (*x_lengths.tolist(), *y_lengths.tolist()))
    assert ragged.FAMILY.comparisons(shape, 1) == pytest.approx(7 * orders)


def test_a_kernel_is_evaluated_once_for_each_two_points():
    points = [(b, i) for b in range(SMALL.B) for i in range(SMALL.N + SMALL.M)]
    together = [{p, q} for p, q in itertools.combinations(points, 2) if p[0] == q[0]]
    assert mmd.distances(SMALL) == len(together)
    for family in (mmd.FAMILY, bandwidths.BANDWIDTHS):
        assert family.exponentials(SMALL, 1) == len(together)
    for family in (bandwidths.WAE, energy.FAMILY):
        assert family.exponentials(SMALL, 1) == 0
    others = SMALL.N + SMALL.M - 1
    assert mmd.flops(SMALL, 0) == 2 * SMALL.D * len(together)
    assert mmd.flops(SMALL, 1) == 2 * SMALL.D * (len(together) + 2 * 3 * others)
    assert mmd.flops(SMALL, 2) == 2 * SMALL.D * (len(together) + 2 * (3 + 4) * others)


@pytest.mark.parametrize("family", cases.FAMILIES, ids=lambda f: f.op)
def test_every_case_has_a_bound(family):
    for shape in itertools.chain(*family.shapes.values()):
        least = [roofline.bound(family, shape, n, RATES)[0] for n in range(len(family.clouds) + 1)]
        assert 0 < least[0] <= least[-1] < math.inf


def test_records_hold_the_bound_and_the_share_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "measured", lambda device: RATES)
    wanted = [p for p in mmd.PROVIDERS if p.name in ("otkernels", "torch")]
    absent = dataclasses.replace(wanted[1], name="absent", make=lambda: 1 / 0)
    family = dataclasses.replace(mmd.FAMILY, providers=(*wanted, absent))
    monkeypatch.setattr(cases, "FAMILIES", (family,))
    run("cpu", pattern="B1-.*/forward$", smoke=True, out=tmp_path / "cpu.jsonl", seconds=0)
    lines = records.read([tmp_path / "cpu.jsonl"])
    assert {line["provider"] for line in lines} == {"otkernels", "torch", "absent"}
    (shape,) = {line["shape"] for line in lines}
    (shape,) = [s for s in mmd.SMOKE if s.name == shape]
    for line in lines:
        assert line["roofline_by"] == "exponentials"
        assert line["roofline_ms"] == pytest.approx(mmd.distances(shape) / 1e6 * 1e3)
        if line["provider"] == "absent":
            assert line["fraction"] is None
        else:
            assert line["fraction"] * line["ms_p50"] == pytest.approx(line["roofline_ms"])


# --- facts --------------------------------------------------------------------------------------


def test_facts_name_what_is_missing_and_why(monkeypatch, tmp_path, capsys, threads):
    (tmp_path / "noisy_peer.py").write_text("print('hello')\n__version__ = '7'\n")
    (tmp_path / "broken_peer.py").write_text("raise OSError('no /a/b/libcuda.so')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rates, "measured", lambda device: RATES)
    peers = {"noisy": "noisy_peer", "broken": "broken_peer", "absent": "absent_peer"}
    monkeypatch.setattr(facts, "PEERS", peers)
    out = tmp_path / "new" / "facts.json"
    assert facts.main(["--device", "cpu", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert found["peers"] == {
        "noisy": {"version": "7", "missing": None},
        "broken": {"version": None, "missing": "OSError: no .../libcuda.so"},
        "absent": {
            "version": None,
            "missing": "ModuleNotFoundError: No module named 'absent_peer'",
        },
    }
    assert found["rates"] == dataclasses.asdict(RATES)
    assert (found["device"], found["threads"]) == ("cpu", 1)
    assert found["memory_bytes"] > 2**28
    assert os.uname().nodename not in out.read_text()
    assert str(ROOT) not in out.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_facts_of_a_gpu_need_one(capsys):
    assert facts.main(["--device", "cuda"]) == 2
    assert "needs a GPU" in capsys.readouterr().err

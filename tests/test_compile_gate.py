import json
import os
import pathlib
import subprocess
import sys

import pytest
import triton

from tests import compile_gate as gate

ROOT = pathlib.Path(__file__).parent.parent
# One of each kernel, small enough for minutes-long CI; `make gate` compiles everything.
REPRESENTATIVE = [
    "match log=5 P=2.0,NEED_U=False,NEED_V=False",
    "match log=8 P=2.0,NEED_U=True,NEED_V=False",
    "match log=9 P=2.0,NEED_U=True,NEED_V=True",
    "sort_run log=9 PAYLOAD=True,COUNTED=True,RUNS=1",
    "merge log=12 PAYLOAD=True",
    "cells torch.float32 U_KEYS=True,V_KEYS=True,P=1.5,LEVELS=True,COUNTED=False,COST=True",
    "cells torch.float32 U_KEYS=True,V_KEYS=False,P=2.0,LEVELS=False,COUNTED=True,COST=True",
    "potential torch.float64 P=1.5",
    "levels positions=*i32",
    "merge_match log=13 P=1.5,NEED_U=True,NEED_V=True",
    "rank_match torch.float64 P=1.5,NEED_U=True,NEED_V=True",
    "matmul torch.bfloat16->torch.float32 BLOCK_M=64,BLOCK_N=64,BLOCK_K=32,ACCUMULATE=True",
    "matmul torch.float64->torch.float64 BLOCK_M=64,BLOCK_N=64,BLOCK_K=16,ACCUMULATE=True",
    "products torch.float32 SPLIT=True,PROFILE=cauchy",
    "near torch.float32",
    "differences torch.bfloat16",
    "split CENTRED=True",
    "extent ",
    "totals ",
    "moments torch.float32->torch.float32 SIDE=64,BLOCK=16,WEIGHTED=True",
    "merge_moments torch.float32 SIDE=64",
    "HAS_ACTIVE=True,SYMMETRIC=True,BLOCK_M=64,BLOCK_N=64,BLOCK_K=32",
    "SYMMETRIC=False,BLOCK_M=64,BLOCK_N=64,BLOCK_K=16 columns",
    "pivoted INNER=4",
    "factor CLEAR=16,TILE=32",
    "polar HALVES=True,SIZE=64",
    "polar HALVES=False,SIZE=2,TILE=16",
    "gradient *fp32 CHECKED=False,BLOCK=16",
    "start BLOCK=32",
    "fidelity RESIDUAL=True,BLOCK=32",
]
# What spills all the same, of (table, target, case): no number of warps helps there.
KNOWN = {("triton-3.9.0", "sm_80", "polar HALVES=True,SIZE=64,TILE=64")}


def compile_and_compare(folder, *arguments):
    """Compile in a process of its own, for here the kernels are interpreted; returns the count."""
    path = gate.table_path(triton.__version__)
    if not path.exists():
        pytest.skip(f"no register table for Triton {triton.__version__}")
    out = folder / "needs.json"
    command = [sys.executable, "-W", "ignore", "-m", "tests.compile_gate", "--json", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = json.loads(path.read_text())
    found = [(t, n, v) for t, row in json.loads(out.read_text()).items() for n, v in row.items()]
    changed = [(t, n, v, expected[t][n]) for t, n, v in found if v != expected[t][n]]
    assert not changed, "look at these (now, committed), then run `make gate` and commit the table"
    return len(found)


def test_representative(tmp_path):
    only = [part for name in REPRESENTATIVE for part in ("--only", name)]
    arguments = ["--target", "sm_90", "--target", "gfx942", "--jobs", "2"]
    assert compile_and_compare(tmp_path, *only, *arguments) >= 2 * len(REPRESENTATIVE)


@pytest.mark.slow
def test_everything(tmp_path):
    assert compile_and_compare(tmp_path) == len(gate.TARGETS) * len(gate.cases())


def test_the_tables_hold_every_case_and_no_problem():
    tables = sorted(gate.TABLES.glob("triton-*.json"))
    versions = {path.stem.removeprefix("triton-") for path in tables}
    assert {"3.6.0", "3.7.1", "3.9.0"} <= versions
    for path in tables:
        table = json.loads(path.read_text())
        assert set(table) == set(gate.TARGETS)
        for target, rows in table.items():
            assert set(rows) == set(gate.cases()), f"{path.name}, {target}: run `make gate`"
            for name, needs in rows.items():
                found = gate.problems(target, needs)
                assert bool(found) == ((path.stem, target, name) in KNOWN), (path.name, name, found)


def test_a_spill_and_too_much_shared_memory_are_problems():
    fine = {"registers": 90, "spills": 0, "instructions": 10, "shared": 64 * 1024}
    assert not gate.problems("gfx942", fine)
    assert gate.problems("gfx942", fine | {"spills": 1})
    assert gate.problems("gfx942", fine | {"shared": 64 * 1024 + 1})


def test_configurations_hold_every_row():
    from otkernels.kernels import rows

    for n in (1, 31, 32, 33, 1000, 1024, 1025, 4096, 4097, 8192):
        log, threads = rows.sort_config(n)
        assert 2**log >= max(n, threads)
        assert threads in (32, 64, 128, 256, 512)
        assert 2 ** (log - 1) < n or log == 5

import copy
import json
import os
import pathlib
import subprocess
import sys

import pytest
import triton

from tests import sass
from tests import sass_design as design
from tests.sass_cases import cases, kernel

ROOT = pathlib.Path(__file__).parent.parent
# One of each kind of matrix instruction and one without, small enough for CI.
REPRESENTATIVE = [
    "match log=5 P=2.0,NEED_U=True,NEED_V=True",
    "products torch.float32 SPLIT=True,PROFILE=gaussian,GRAD=False",
    "matmul torch.float32->torch.float32 BLOCK_M=64,BLOCK_N=64,BLOCK_K=32,ACCUMULATE=False cont",
    "moments torch.float32->torch.float64 SIDE=32,BLOCK=16,WEIGHTED=False",
]
CODE = """
	//## File "{file}", line {load}
        /*0000*/                   LDG.E.128 R4, desc[UR10][R2.64] ;
.L_x_1:
        /*0010*/               @P0 LDGSTS.E.BYPASS.128 [R98], desc[UR10][R4.64], P2 ;
        /*0020*/                   DADD R8, R8, R4 ;
        /*0030*/                   DSETP.GT.AND P0, PT, R8, RZ, PT ;
        /*0040*/               @P0 BRA `(.L_x_1) ;
        /*0050*/                   DFMA R8, R8, R4, R8 ;
        /*0060*/                   HGMMA.64x32x8.F32.TF32 R24, gdesc[UR8], R24 ;
        /*0070*/                   HGMMA.64x32x16.F32 R24, gdesc[UR8], R24 ;
        /*0080*/                   DMMA.16x8x16 R8, R8, R4, R8 ;
        /*0090*/                   MUFU.EX2 R2, R2 ;
        /*00a0*/                   LDL.64 R2, [R1] ;
        /*00b0*/                   STS.128 [R2], R4 ;
	//## File "{file}", line {store}
        /*00c0*/                   STG.E desc[UR10][R2.64], R4 ;
        /*00d0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00e0*/                   EXIT ;
"""


def line_of(file, text):
    return next(i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def test_counts_of_a_listing():
    file = sass.KERNELS / "matmul.py"
    text = CODE.format(
        file=file,
        load=line_of(file, "tl.load(a_ptr"),
        store=line_of(file, "tl.store(out_ptr"),
    )
    assert sass.counts(text) == {
        "bytes": 16 * 15,
        "local": 1,
        "matrix": {"DMMA f64": 1, "HGMMA f16": 1, "HGMMA tf32": 1},
        "loads": {"matmul.a_ptr 16": 2},
        "stores": {"matmul.out_ptr 4": 1},
        "shared": 1,
        "barriers": 1,
        "exponentials": 1,
        "double_in_loops": 2,
    }


def test_lines_of_an_older_file_are_refused():
    text = CODE.format(file=sass.KERNELS / "matmul.py", load=1, store=1)
    with pytest.raises(RuntimeError, match="empty it"):
        sass.counts(text)


def test_the_tables_hold_every_case_and_no_broken_rule():
    tables = sorted(sass.gate.TABLES.glob("sass-*.json"))
    assert {"sass-3.6.0", "sass-3.7.1"} <= {path.stem for path in tables}
    for path in tables:
        table = json.loads(path.read_text())
        assert set(table) == set(cases()), f"{path.name}: run `make gate`"
        broken = {name: design.broken(cases()[name], row) for name, row in table.items()}
        assert not any(broken.values()), {name: rules for name, rules in broken.items() if rules}


def test_every_kernel_has_a_design_and_a_case_that_shows_its_wide_reads():
    found = list(cases().values())
    assert {kernel(case) for case in found} == set(design.DESIGNS)
    for name, expected in design.DESIGNS.items():
        if expected.wide and expected.told:
            assert any(case.aligned for case in found if kernel(case) == name), name


GOOD = {
    "bytes": 1024,
    "local": 0,
    "matrix": {"HGMMA tf32": 12},
    "loads": {"matmul.a_ptr 16": 12, "matmul.b_ptr 16": 12},
    "stores": {"matmul.out_ptr 16": 8},
    "shared": 30,
    "barriers": 7,
    "exponentials": 0,
    "double_in_loops": 0,
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"local": 2}, "local memory"),
        ({"matrix": {}}, "matrix instructions multiply"),
        ({"matrix": {"HGMMA f16": 12}}, "matrix instructions multiply"),
        ({"loads": {"matmul.a_ptr 16": 12, "matmul.b_ptr 4": 48}}, "matmul.b_ptr is read 4 bytes"),
        ({"loads": {"matmul.a_ptr 16": 12}}, "matmul.b_ptr is not read"),
        ({"loads": GOOD["loads"] | {"matmul.c_ptr 4": 1}}, "no reason is given"),
        ({"double_in_loops": 1}, "float64 instructions in loops"),
        ({"bytes": 101 * 1024}, "bytes of code"),
    ],
)
def test_each_rule_can_be_broken(change, word):
    name = "matmul torch.float32->torch.float32 BLOCK_M=64,BLOCK_N=64,BLOCK_K=32,ACCUMULATE=False"
    case = cases()[f"{name} contiguous"]
    assert not design.broken(case, GOOD)
    (rule,) = design.broken(case, GOOD | change)
    assert word in rule


def test_a_software_exponential_breaks_a_rule():
    named = (n for n in cases() if n.startswith("near torch.float32 PROFILE=laplacian"))
    case = cases()[next(named)]
    rules = design.broken(case, GOOD | {"matrix": {}, "loads": {}})
    assert rules == ["no exponential is an instruction"]


def test_contiguous_launches_say_no_more_than_the_kernel_takes():
    for name, case in cases().items():
        if name.endswith(", contiguous"):
            plain = copy.copy(sass.gate.cases()[name.removesuffix(", contiguous")])
            assert set(case.aligned) <= set(case.kernel.arg_names) - set(case.constants)
            assert case.constants | plain.constants == case.constants


def compile_and_compare(folder, *arguments):
    """Compile in a process of its own, for here the kernels are interpreted; returns the count."""
    path = sass.table_path(triton.__version__)
    if not path.exists():
        pytest.skip(f"no table of machine code for Triton {triton.__version__}")
    out = folder / "counts.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")  # line numbers change without a change
    command = [sys.executable, "-W", "ignore", "-m", "tests.sass", "--json", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found, expected = json.loads(out.read_text()), json.loads(path.read_text())
    changed = {n: (row, expected[n]) for n, row in found.items() if row != expected[n]}
    assert not changed, "look at these (now, committed), then run `make gate` and commit the table"
    return len(found)


def test_representative(tmp_path):
    only = [part for name in REPRESENTATIVE for part in ("--only", name)]
    assert compile_and_compare(tmp_path, *only, "--jobs", "2") >= len(REPRESENTATIVE)


@pytest.mark.slow
def test_everything(tmp_path):
    assert compile_and_compare(tmp_path, "--jobs", "2") == len(cases())

import json

import numpy as np
import pytest
import torch

import otkernels
from otkernels.verify import __main__ as verify
from otkernels.verify.ops import OPS, load

FAST = ["--quick", "--impl", "torch", "--dtype", "float32"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Problems this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def given(tmp_path):
    """Arguments for a quick run: four rows of float32 on small clouds."""
    for name, cloud in zip("xy", clouds(20, 20, 3), strict=True):
        np.save(tmp_path / f"{name}.npy", cloud)
    files = ["--x", str(tmp_path / "x.npy"), "--y", str(tmp_path / "y.npy")]
    return [*files, "--impl", "torch", "--dtype", "float32"]


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.5 + rng.standard_normal((m, d))


# --- the verdicts -------------------------------------------------------------------------------


def test_what_is_right_passes(capsys):
    assert verify.main(["--quick", "--impl", "torch", "cpu", "--dtype", "float32", "float16"]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert " 0 fail" in out
    assert max(map(len, (line for line in out.splitlines() if line.endswith("PASS")))) <= 110


def _value(right, x, y, **keywords):
    value = right(x, y, **keywords)
    return value + 0.001 * value.detach()


def _gradient(right, x, y, **keywords):
    value = right(x, y, **keywords)
    return 1.001 * value - 0.001 * value.detach()


def _row_zeroed(right, x, y, **keywords):
    held = torch.zeros_like(x, dtype=torch.bool)
    held[..., 0, :] = True
    return right(torch.where(held, x.detach(), x), y, **keywords)


def _row_zeroed_of_y(right, x, y, **keywords):
    return _row_zeroed(lambda y, x, **k: right(x, y, **k), y, x, **keywords)


def _nan(right, x, y, **keywords):
    return right(x, y, **keywords) * float("nan")


def _tf32(right, x, y, **keywords):
    """Points rounded to the 10 bits of mantissa that tensor cores read in their fast mode."""
    x, y = (z + ((z * 8193) - (z * 8192) - z).detach() for z in (x, y))
    return right(x, y, **keywords)


def _raises(right, x, y, **keywords):
    raise RuntimeError("no kernel image\nsecond line")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (_value, "value differs from the formula"),
        (_gradient, "gradient differs from the formula"),
        (_row_zeroed, "gradient differs from the formula"),
        (_row_zeroed_of_y, "gradient differs from POT"),
        (_nan, "value is not a number"),
        (_tf32, "gradient differs from the formula"),
        (_raises, "RuntimeError: no kernel image\n"),
    ],
    ids=lambda v: v.__name__.strip("_") if callable(v) else "",
)
def test_what_is_wrong_fails(monkeypatch, capsys, given, wrong, reason):
    right = otkernels.sliced_wasserstein
    monkeypatch.setattr(otkernels, "sliced_wasserstein", lambda x, y, **k: wrong(right, x, y, **k))
    assert verify.main(given) == 1
    out = capsys.readouterr().out
    assert "FAIL\n" in out
    assert reason in out


def test_half_precision_does_not_hide_a_lost_row(monkeypatch, capsys):
    right = otkernels.wasserstein_1d
    monkeypatch.setattr(
        otkernels,
        "wasserstein_1d",
        lambda u, v, **k: right(torch.cat([u[..., :1].detach(), u[..., 1:]], -1), v, **k),
    )
    assert verify.main([*FAST, "--op", "wasserstein_1d", "--dtype", "bfloat16"]) == 1
    capsys.readouterr()


def test_a_peer_that_disagrees_fails(monkeypatch, capsys, given):
    pot = load(OPS[0].peer)
    right = pot.sliced_wasserstein_distance
    monkeypatch.setattr(
        pot, "sliced_wasserstein_distance", lambda *args, **k: 1.01 * right(*args, **k)
    )
    assert verify.main(given) == 1
    assert "value differs from POT" in capsys.readouterr().out


def test_without_the_peer_the_rest_runs(monkeypatch, capsys):
    monkeypatch.setattr(verify, "load", lambda peer: None)
    assert verify.main([*FAST, "--op", "wasserstein_1d"]) == 0
    assert "no POT installed PASS" in capsys.readouterr().out


def test_a_peer_that_raises_is_said_and_is_no_failure(monkeypatch, capsys):
    def broken(*args, **keywords):
        raise ValueError("broken peer")

    monkeypatch.setattr(load(OPS[0].peer), "wasserstein_1d", broken)
    assert verify.main([*FAST, "--op", "wasserstein_1d"]) == 0
    out = capsys.readouterr().out
    assert "error PASS" in out
    assert "POT raised ValueError: broken peer" in out


def test_equal_clouds_are_exactly_zero_where_pot_has_no_gradient(capsys, tmp_path):
    file = tmp_path / "record.json"
    assert verify.main([*FAST, "--op", "sliced_wasserstein", "--json", str(file)]) == 0
    rows = [row for row in json.loads(file.read_text())["rows"] if row["case"].endswith("equal")]
    assert len(rows) == 4
    for row in rows:
        assert row["value"]["ours"] == [0.0]
        assert row["gradient"]["ours"] == row["gradient"]["error"] == 0.0
    at_2 = next(row for row in rows if row["settings"] == {"p": 2})
    assert at_2["gradient"]["peer"] == "nan"
    assert " NaN PASS" in capsys.readouterr().out


def test_a_refusal_is_neither_pass_nor_fail(capsys):
    assert verify.main(["--quick", "--impl", "cpu", "--dtype", "float64"]) == 0
    out = capsys.readouterr().out
    refused = [line for line in out.splitlines() if line.endswith("REFUSED")]
    assert len(refused) == 16
    assert all("61/40" in line for line in refused)
    assert "16 refused" in out
    assert "must have equal sizes with impl='cpu'" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are already compiled for the GPU")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # NumPy's log2 of a zero gap
def test_triton_in_its_interpreter(monkeypatch, capsys, tmp_path):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "u.npy", rng.standard_normal(9))
    np.save(tmp_path / "v.npy", rng.standard_normal(9))
    given = ["--x", str(tmp_path / "u.npy"), "--y", str(tmp_path / "v.npy")]
    chosen = ["--impl", "triton", "--device", "cpu", "--dtype", "float32"]
    assert verify.main([*given, *chosen]) == 0
    assert "4 rows: 4 pass" in capsys.readouterr().out
    np.save(tmp_path / "u.npy", rng.standard_normal(65))
    with pytest.raises(SystemExit):
        verify.main([*given, *chosen])
    assert "too slow in Triton's interpreter" in capsys.readouterr().err


def test_triton_is_named_where_it_cannot_run(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    file = tmp_path / "record.json"
    arguments = ["--device", "cpu", "--quick", "--op", "wasserstein_1d", "--dtype", "float32"]
    assert verify.main([*arguments, "--json", str(file)]) == 0
    assert "not run: triton: needs a CUDA or ROCm device" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert [entry["what"] for entry in record["not_run"]] == ["triton"]


# --- the command line ---------------------------------------------------------------------------


def test_the_record(tmp_path, capsys):
    file = tmp_path / "record.json"
    assert verify.main([*FAST, "--op", "wasserstein_1d", "--json", str(file)]) == 0
    capsys.readouterr()
    text = file.read_text()
    record = json.loads(text)
    assert set(record) == {"environment", "rows", "not_run"}
    assert record["environment"]["torch"] == torch.__version__
    assert str(tmp_path) not in text
    row = next(row for row in record["rows"] if row["case"] == "2x3x33")
    assert (row["op"], row["impl"], row["dtype"]) == ("wasserstein_1d", "torch", "float32")
    assert row["verdict"] == "PASS"
    assert row["shapes"] == {"x": [2, 3, 33], "y": [2, 3, 33]}
    assert len(row["value"]["ours"]) == len(row["value"]["formula"]) == 6
    for judged in (row["value"], row["gradient"]):
        assert 0 <= judged["error"] <= judged["bound"] < 1e-5
        assert judged["worst"] <= 1
        assert judged["peer_error"] <= judged["peer_bound"]


def test_own_clouds(tmp_path, capsys):
    x, y = clouds(40, 40, 3)
    np.save(tmp_path / "a.npy", x.astype(np.float32))
    np.save(tmp_path / "b.npy", y)
    arguments = ["--x", str(tmp_path / "a.npy"), "--y", str(tmp_path / "b.npy")]
    assert verify.main([*arguments, "--impl", "torch", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "wasserstein_1d" not in out
    assert "32 rows: 32 pass" in out
    assert "40x3" in out


def test_own_numbers_that_overflow_float16(tmp_path, capsys):
    np.save(tmp_path / "u.npy", np.array([1e6, 2.0, 3.0]))
    np.save(tmp_path / "v.npy", np.array([1.0, 2.0]))
    arguments = ["--x", str(tmp_path / "u.npy"), "--y", str(tmp_path / "v.npy")]
    assert verify.main([*arguments, "--impl", "torch"]) == 0
    out = capsys.readouterr().out
    assert "sliced_wasserstein" not in out
    assert "12 rows: 12 pass" in out
    assert "not run: wasserstein_1d in float16: the numbers overflow this dtype" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--impl", "numba"], "invalid choice: 'numba'"),
        (["--op", "sinkhorn"], "invalid choice: 'sinkhorn'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--device", "tpu"], "--device: must be cpu or cuda"),
        (["--device", "cuda:99"], "--device: cuda:99 is not here"),
        (["--x", "points.npy"], "--x and --y must be given together"),
        (["--x", "absent.npy", "--y", "points.npy"], "cannot read absent.npy: No such file"),
        (["--x", "text.npy", "--y", "points.npy"], "text.npy is not a .npy file of numbers"),
        (["--x", "integers.npy", "--y", "points.npy"], "floating numbers; got int64"),
        (["--x", "batch.npy", "--y", "points.npy"], "must have shape (N, D) or (N,)"),
        (["--x", "empty.npy", "--y", "points.npy"], "not empty; got (0, 3)"),
        (["--x", "nan.npy", "--y", "points.npy"], "--x: must hold finite numbers"),
        (["--x", "points.npy", "--y", "numbers.npy"], "as many features as --x"),
        (
            ["--x", "numbers.npy", "--y", "numbers.npy", "--op", "sliced_wasserstein"],
            "does not take numbers",
        ),
        (["--json", "absent/record.json"], "--json: no folder"),
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("1 2 3")
    arrays = {
        "points": np.ones((4, 3)),
        "numbers": np.ones(4),
        "integers": np.arange(4),
        "batch": np.ones((2, 4, 3)),
        "empty": np.ones((0, 3)),
        "nan": np.full((4, 3), np.nan),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(SystemExit) as stop:
        verify.main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_nothing_to_run_is_not_a_success(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as stop:
        verify.main(["--impl", "triton", "--device", "cpu"])
    assert stop.value.code == 2
    assert "nothing could run; triton: needs a CUDA" in capsys.readouterr().err

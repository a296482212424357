import itertools
import json

import numpy as np
import pytest
import torch

import otkernels
from otkernels.verify import __main__ as verify
from otkernels.verify.inputs import Case, draw
from otkernels.verify.ops import OPS
from otkernels.verify.peers import POT_LINE, load

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
    return [*files, "--op", "sliced_wasserstein", "--impl", "torch", "--dtype", "float32"]


@pytest.fixture
def given_numbers(tmp_path):
    """Arguments for a quick run: four rows of float32 on a few numbers."""
    for name, cloud in zip("uv", clouds(9, 9, 1), strict=True):
        np.save(tmp_path / f"{name}.npy", cloud[:, 0])
    files = ["--x", str(tmp_path / "u.npy"), "--y", str(tmp_path / "v.npy")]
    return [*files, "--impl", "torch", "--dtype", "float32"]


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.5 + rng.standard_normal((m, d))


# --- the verdicts -------------------------------------------------------------------------------


def test_what_is_right_passes(monkeypatch, capsys):
    monkeypatch.setattr(verify, "QUICK_POINTS", 33)
    assert verify.main(["--quick", "--impl", "cpu", "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert " 0 fail" in out
    assert max(map(len, (line for line in out.splitlines() if line.endswith("PASS")))) <= 129


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
        (_value, "value differs from the truth"),
        (_gradient, "grad projections differs from the truth"),
        (_row_zeroed, "grad x differs from the truth"),
        (_row_zeroed_of_y, "grad y differs from POT"),
        (_nan, "value is not a number"),
        (_tf32, "grad x differs from the truth"),
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
    pot = load(POT_LINE)
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

    monkeypatch.setattr(load(POT_LINE), "wasserstein_1d", broken)
    assert verify.main([*FAST, "--op", "wasserstein_1d"]) == 0
    out = capsys.readouterr().out
    assert "error PASS" in out
    assert "POT raised ValueError: broken peer" in out


def test_equal_clouds_are_exactly_zero_where_pot_has_no_gradient(capsys, tmp_path, given):
    file = tmp_path / "record.json"
    twice = [given[0], given[1], "--y", given[1], *given[4:]]
    assert verify.main([*twice, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 4
    for row in rows:
        assert row["values"]["ours"] == [0.0]
        assert set(row["quantities"]) == {"value", "grad x", "grad y", "grad projections"}
        assert all(q["ours"] == q["error"] == 0.0 for q in row["quantities"].values())
    at_2 = next(row for row in rows if row["settings"] == {"p": 2})
    assert at_2["quantities"]["grad x"]["peer"] == "nan"
    assert not at_2["quantities"]["grad x"]["peer_counted"]
    assert " NaN PASS" in capsys.readouterr().out


def test_a_refusal_is_neither_pass_nor_fail(monkeypatch, capsys, given_numbers):
    reason = "wasserstein_1d: impl must not be 'cpu'; got 'cpu'. Use impl='torch'."

    def refuse(u, v, **keywords):
        raise NotImplementedError(reason)

    monkeypatch.setattr(otkernels, "wasserstein_1d", refuse)
    assert verify.main(given_numbers) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.endswith("REFUSED")]) == 4
    assert f"refused 4 times: {reason}" in out


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


# --- what is true of the other ops --------------------------------------------------------------


def _through(name, wrong):
    """A patch: the public function with its result or its arguments changed."""

    def patch(monkeypatch):
        right = getattr(otkernels, name)
        monkeypatch.setattr(otkernels, name, lambda *args, **k: wrong(right, *args, **k))

    return patch


def _scaled(right, *args, **keywords):
    return 1.01 * right(*args, **keywords)


def _weights_held(right, x, y, a=None, **keywords):
    return right(x, y, a=None if a is None else a.detach() + 0 * a, **keywords)


def _one_point_too_many(right, x, *args, x_lengths=None, **keywords):
    if x_lengths is not None:
        x = x.nan_to_num(0.0)
        x_lengths = (x_lengths + 1).clamp(max=x.shape[-2])
    return right(x, *args, x_lengths=x_lengths, **keywords)


def _directions_held(right, *args, projections, **keywords):
    held = projections if callable(projections) else projections.detach() + 0 * projections
    return right(*args, projections=held, **keywords)


def _worst_candidate(right, x, y, *, projections, **keywords):
    return right(x, y, projections=projections[..., :1], **keywords | {"n_steps": 0})


def _changed(field, factor):
    def wrong(right, *args, **keywords):
        info = right(*args, **keywords)
        return info._replace(**{field: factor * getattr(info, field)})

    return wrong


def _biased_fit(right, *args, control_variate=False, **keywords):
    """A control variate without its known mean."""
    info = right(*args, control_variate=control_variate, **keywords)
    return info._replace(value=info.value * 1.02) if control_variate else info


@pytest.mark.parametrize(
    ("op", "wrong", "reason"),
    [
        ("sliced_wasserstein", _weights_held, "grad a differs from the truth"),
        ("sliced_wasserstein", _directions_held, "grad projections differs from the truth"),
        ("sliced_wasserstein", _one_point_too_many, "padded"),
        ("sliced_wasserstein_to_normal", _scaled, "value differs from the truth"),
        ("sliced_wasserstein_to_normal", _one_point_too_many, "padded"),
        ("max_sliced_wasserstein", _scaled, "value differs from POT"),
        ("max_sliced_wasserstein", _worst_candidate, "value differs from the truth"),
        ("sliced_wasserstein_with_info", _changed("costs", 1.001), "costs differs from POT"),
        ("sliced_wasserstein_with_info", _changed("standard_error", 1.001), "standard_error diff"),
        ("sliced_wasserstein_with_info", _biased_fit, "value differs from the truth"),
    ],
    ids=lambda v: v.__name__.strip("_") if callable(v) else "",
)
def test_what_is_wrong_elsewhere_fails(monkeypatch, capsys, op, wrong, reason):
    monkeypatch.setattr(verify, "QUICK_POINTS", 15 if op == "sliced_wasserstein" else 33)
    _through(op, wrong)(monkeypatch)
    assert verify.main([*FAST, "--op", op]) == 1
    lines = capsys.readouterr().out.splitlines()
    failing = [" ".join(pair) for pair in itertools.pairwise(lines) if pair[0].endswith("FAIL")]
    assert any(reason in text for text in failing)


def test_padding_is_poisoned_and_cut_from_the_truth():
    op = next(op for op in OPS if op.name == "sliced_wasserstein")
    case = Case(9, d=3, l=2, m=7, batch=(4,), kind="padded weights")
    inputs = draw(op, case, torch.float32)
    lengths = inputs.tensors["x_lengths"]
    assert 0 < lengths.min() < lengths.max()
    for k, problem in enumerate(inputs.problems()):
        n = int(lengths[k])
        assert len(problem["x"]) == len(problem["a"]) == n
        assert all(np.isfinite(array).all() for array in problem.values())
        assert inputs.tensors["x"][k, n:].isnan().all()
        assert inputs.tensors["a"][k, n:].isnan().all()


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
    assert row["against"] == "sorting and merging in float64"
    assert (row["op"], row["impl"], row["dtype"]) == ("wasserstein_1d", "torch", "float32")
    assert row["verdict"] == "PASS"
    assert row["shapes"] == {"u": [2, 3, 33], "v": [2, 3, 33]}
    assert len(row["values"]["ours"]) == len(row["values"]["formula"]) == 6
    assert set(row["quantities"]) == {"value", "grad u", "grad v"}
    for judged in row["quantities"].values():
        assert 0 <= judged["error"] <= judged["bound"] < 1e-5
        assert judged["worst"] <= 1
        assert judged["peer_error"] <= judged["peer_bound"]


def test_own_clouds(tmp_path, capsys):
    x, y = clouds(12, 12, 3)
    np.save(tmp_path / "a.npy", x.astype(np.float32))
    np.save(tmp_path / "b.npy", y)
    arguments = ["--x", str(tmp_path / "a.npy"), "--y", str(tmp_path / "b.npy")]
    assert verify.main([*arguments, "--impl", "torch", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "wasserstein_1d" not in out
    assert "\nmmd, against" in out
    assert "144 rows: 144 pass" in out
    assert "12x3" in out


def test_own_numbers_that_overflow_float16(tmp_path, capsys):
    np.save(tmp_path / "u.npy", np.array([1e6, 2.0, 3.0]))
    np.save(tmp_path / "v.npy", np.array([1.0, 2.0]))
    arguments = ["--x", str(tmp_path / "u.npy"), "--y", str(tmp_path / "v.npy")]
    assert verify.main([*arguments, "--impl", "torch"]) == 0
    out = capsys.readouterr().out
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

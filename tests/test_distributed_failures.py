"""What ranks get when one of them fails, or is given something else than the others."""

import distributed_failure_cases as on
import failing_ranks
import pytest
import torch
from ranks import everywhere
from torch.testing import assert_close

import otkernels
from otkernels import distributed


@pytest.fixture(scope="module")
def outcomes():
    return failing_ranks.outcomes()


def from_ranks(case):
    return [result[case] for result in everywhere(on.SIZE, on.CASES)]


# --- ranks that end, or are late ----------------------------------------------------------------


def check(reports, name, endings):
    assert len(reports) == failing_ranks.SIZE - 1
    for report in reports:
        assert report["kind"] == report["cause"] == "RuntimeError", report
        beginning = f"distributed.{name}: rank {report['rank']} of 3 could not exchange data ("
        assert report["text"].startswith(beginning)
        assert any(ending in report["text"] for ending in endings), report


@pytest.mark.parametrize("scenario", ["raises", "killed", "killed before backward"])
@pytest.mark.parametrize("name", failing_ranks.ALL)
def test_a_rank_that_ends_is_an_error_on_the_others_at_once(outcomes, scenario, name):
    reports = outcomes[scenario, name]
    check(reports, name, ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))
    assert all(report["seconds"] < failing_ranks.PATIENT / 2 for report in reports)


@pytest.mark.parametrize("name", failing_ranks.ALL)
def test_a_late_rank_is_an_error_on_the_others_after_the_time_out(outcomes, name):
    reports = outcomes["late", name]
    check(reports, name, ("Timed out waiting 2000ms",))
    assert all(report["seconds"] < 10 * failing_ranks.IMPATIENT for report in reports)


def test_a_gaussian_whose_gradient_only_some_ranks_want_ends_by_time_out(outcomes):
    """Without ``validate`` it exchanges nothing but sums."""
    name = "gaussian_wasserstein"
    check(outcomes["no gradient", name], name, ("Timed out waiting 2000ms", "by peer"))


# --- arguments that do not fit ------------------------------------------------------------------


@pytest.mark.parametrize("name", on.FAMILIES)
@pytest.mark.parametrize("change", on.CHANGES)
def test_arguments_that_differ_are_refused_on_all_ranks(name, change):
    texts, (theirs, odd) = from_ranks(f"{change}, {name}"), on.CHANGES[change]
    for option, value in on.OPTION[name].items() if change == "option" else ():
        theirs, odd = f"{option}=", f"{option}={value!r}"
    start = f"ValueError: distributed.{name}: arguments must be alike on all ranks"
    for text in texts:
        assert text == texts[0]
        assert text.startswith(start)
        before, _, after = text.partition("; got ")
        assert theirs in before
        assert odd not in before
        assert odd in after
        assert after.endswith(" on rank 1")


@pytest.mark.parametrize("name", on.FAMILIES)
def test_a_refusal_of_one_rank_reaches_the_others(name):
    own = f"distributed.{name}: y must have x's 3 features; got (5, 2)"
    for rank, text in enumerate(from_ranks(f"refused, {name}")):
        others = f"RuntimeError: distributed.{name}: rank 1 refused its input: {own}"
        assert text == (f"ValueError: {own}" if rank == on.ODD else others)


def test_texts_longer_than_what_is_sent_are_compared_whole():
    reference = otkernels.mmd(*on.points(), bandwidth=on.LONG)
    for value in from_ranks("long_text"):
        assert_close(value, reference)
    for text in from_ranks("long_texts_that_differ"):
        assert text.startswith("ValueError: distributed.mmd: arguments must be alike")


@pytest.mark.parametrize("what", ["gradient to directions", "reference", "size of the reference"])
def test_what_only_one_rank_has_is_refused_on_all(what):
    for text in from_ranks(what):
        assert text.startswith("ValueError: "), text
        assert "arguments must be alike on all ranks" in text
        assert text.endswith(" on rank 1")


def test_bandwidths_of_a_rank_are_checked_before_the_others_wait():
    texts = from_ranks("bandwidths")
    assert texts.pop(on.ODD).startswith("ValueError: distributed.mmd: bandwidth must be positive")
    assert all("rank 1 refused its input" in text for text in texts)


def test_equal_numbers_are_alike_however_written():
    for values in from_ranks("same"):
        assert all(isinstance(value, torch.Tensor) for value in values), values


@pytest.mark.parametrize("name", ["sliced_wasserstein", "mmd", "gaussian_wasserstein", "mean_cov"])
def test_validate_counts_the_points_of_all_ranks(name):
    least = 4 * on.SIZE if name == "mean_cov" else 0
    for text in from_ranks(f"nothing counts, {name}"):
        condition = f"x must have more than {least} points that count, on all ranks together"
        assert text == f"ValueError: distributed.{name}: {condition}; got {least}"


# --- process groups -----------------------------------------------------------------------------


def test_without_a_process_group():
    x = torch.zeros(2, 1)
    condition = "process_group must be used after torch.distributed.init_process_group"
    with pytest.raises(ValueError, match=f"distributed.mmd: {condition}; got 'world'"):
        distributed.mmd(x, x)
    with pytest.raises(ValueError, match=condition):
        otkernels.GaussianWassersteinLoss(process_group="world")(x, x)
    with pytest.raises(ValueError, match="MMDLoss: process_group must be 'world', a torch.dist"):
        otkernels.MMDLoss(process_group="all")


def test_a_group_that_a_rank_is_not_in():
    results = from_ranks("outsider")
    text = results.pop(on.ODD)
    assert text == (
        "ValueError: distributed.mmd: process_group must be 'world' or a ProcessGroup that this "
        "process is in; got int"
    )
    assert_close(*results)


@pytest.mark.parametrize("name", on.FAMILIES)
def test_a_group_of_one_rank_is_a_process_alone(name):
    for there, here, gradient_there, gradient_here in from_ranks(f"alone, {name}"):
        assert_close(there, here)
        assert_close(gradient_there, gradient_here)


@pytest.mark.parametrize("name", ["SlicedWassersteinLoss", "MMDLoss", "GaussianWassersteinLoss"])
def test_copies_of_modules_keep_the_world(name):
    values = torch.stack([torch.stack(result) for result in from_ranks(f"copies, {name}")])
    assert values.isfinite().all()
    assert (values == values[0, 0]).all()


# --- values and derivatives ---------------------------------------------------------------------


@pytest.mark.parametrize("name", on.FAMILIES)
def test_a_nan_on_one_rank_spoils_its_problem_only(name):
    for value, gradient in from_ranks(f"spoilt, {name}"):
        assert value.isnan().tolist() == [False, True]
        assert gradient[0].isfinite().all()
        assert gradient[0].any()
        assert gradient[1].isnan().all()


@pytest.mark.parametrize("name", ["sliced_wasserstein", "gaussian_wasserstein"])
def test_second_derivatives(name):
    """Each derivative is that of the sum of the ranks' numbers."""
    found = torch.cat(from_ranks(f"second, {name}"))
    assert_close(found / on.SIZE, on.second_in_one_process(name), rtol=1e-9, atol=1e-12)


def test_second_derivatives_of_mmd_are_refused():
    for text in from_ranks("second, mmd"):
        assert text == (
            "NotImplementedError: otkernels: distributed.mmd and distributed.energy_distance "
            "have first derivatives only."
        )


@pytest.mark.parametrize("name", on.FAMILIES)
def test_forward_mode_is_refused(name):
    for text in from_ranks(f"forward_mode, {name}"):
        assert text == (
            "NotImplementedError: otkernels.distributed has no forward-mode derivatives; "
            "use reverse mode."
        )

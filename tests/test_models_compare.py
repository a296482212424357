"""A comparison as a whole, run on configs of a few seconds."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import matplotlib.image
import pytest
import torch
from models_configs import write_config
from models_support import IGNORED, build, call, one_thread  # noqa: F401

from models import report, runs
from models.compare import command, job, plan, workers
from models.data import Digits
from models.evaluation import evaluate
from models.failures import INTERRUPTED, Failure

pytestmark = IGNORED


def test_ctrl_c_ends_the_comparison_and_not_only_the_job(tmp_path, monkeypatch):
    def interrupted(arguments):
        raise Failure("interrupted", INTERRUPTED)

    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)
    monkeypatch.setattr(job.cli, "CLI", interrupted)
    with pytest.raises(Failure, match="the same command goes on") as caught:
        command.main(["--data", "x", "--configs", str(tmp_path), "--out", str(tmp_path / "out"),
                      "--jobs", "1"])  # fmt: skip
    assert caught.value.code == INTERRUPTED


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    write_config(folder, "tiny_autoencoder", "Autoencoder", 0.0)
    write_config(folder, "tiny_sliced_wae", "SlicedWAE", 10.0)
    write_config(folder, "tiny_wwae", "SlicedWAE", 1e38, more=["lr: 1.0e+3"])  # ends in NaN
    return folder


@pytest.fixture(scope="module")
def compared(configs, tmp_path_factory):
    """Folder and failure of a comparison of three tiny systems, one of which fails; two seeds."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda *_: "")  # pages of single runs: seconds each
        with pytest.raises(Failure) as caught:
            command.main(arguments(configs, out))
    return out, caught.value


def arguments(configs, out, *more):
    return ["--data", "tiny", "--configs", str(configs), "--out", str(out), "--seeds", "2",
            "--jobs", "1", *map(str, more)]  # fmt: skip


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_failed_job_takes_no_other_down(compared):
    out, failure = compared
    assert failure.code == 1
    assert "2 of 6 jobs failed" in str(failure)
    records = read_csv(out / "results.csv")
    assert len(records) == 2 * 5 + 2 + 2
    failed = [record for record in records if record["failed"]]
    assert {record["system"] for record in failed} == {"wwae"}
    assert all(record["sample_sw2"] == "" for record in failed)
    assert all(float(r["sample_sw2"]) > 0 for r in records if r not in failed)
    page = (out / "index.html").read_text()
    assert "<td>failed</td>" in page
    assert re.search(r"Failed, and left out of the means:</b> wwae, seed 0: .*(nan|inf)", page)
    log = (out / "logs" / "wwae_seed1.log").read_text()
    assert "Traceback" in log


def test_summary_holds_means_and_deviations_of_the_runs(compared):
    out, _ = compared
    records, means = read_csv(out / "results.csv"), read_csv(out / "summary.csv")
    assert [m["row"] for m in means] == [
        "AE, N(0, I)", "AE, unit-scaled", "AE, Gaussian", "AE, mixture of 10", "AE, real codes",
        "SlicedWAE", "WWAE, full",
    ]  # fmt: skip
    for mean in means[:-1]:
        own = [r for r in records if r["row"] == mean["row"]]
        assert [r["seed"] for r in own] == ["0", "1"]
        for key in ("sample_sw2", "mse_per_pixel", "seconds_per_epoch"):
            x, y = (float(r[key]) for r in own)
            assert float(mean[key]) == pytest.approx((x + y) / 2)
            assert float(mean[f"{key}_sd"]) == pytest.approx(abs(x - y) / 2**0.5, abs=1e-12)
    assert (means[-1]["runs"], means[-1]["failed"]) == ("0", "2")
    # One autoencoder, five laws: only what is decoded differs.
    laws = [r for r in records if r["system"] == "autoencoder" and r["seed"] == "0"]
    assert len({r["mse_per_pixel"] for r in laws}) == 1
    assert len({r["sample_sw2"] for r in laws}) == 5


def test_page_needs_no_network_and_shows_its_pictures(compared):
    class Links(HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            links = [v for k, v in attributes if k in ("src", "href")]
            self.found = (*self.found, *links)

    out, _ = compared
    page, parser = (out / "index.html").read_text(), Links()
    parser.feed(page)
    assert {"samples.png", "results.csv", "summary.csv", "summary.md"} <= set(parser.found)
    assert all((out / link).is_file() for link in parser.found)
    assert not re.search(r"https?://|url\(|@import|<script", page)
    picture = matplotlib.image.imread(out / "samples.png")
    assert picture[..., :3].std() > 0.02
    assert "2 epochs (40 optimiser steps)" in page
    assert "seeds 0 to 1" in page
    cell = read_csv(out / "summary.csv")[0]
    shown = f"{float(cell['sample_sw2']):.4f} ± {float(cell['sample_sw2_sd']):.4f}"
    assert f">{shown}<" in page


def test_every_run_is_a_normal_one(compared):
    out, _ = compared
    folders = sorted(path.name for path in (out / "runs").iterdir())
    assert folders == sorted(f"{s}_seed{k}" for s in ("autoencoder", "sliced_wae", "wwae")
                             for k in (0, 1))  # fmt: skip
    folder = out / "runs" / "sliced_wae_seed1"
    result = json.loads((folder / job.RESULT).read_text())
    assert runs.load(job.checkpoint_of(result)).hparams.weight == 10
    assert "seed_everything: 1" in (folder / "config.yaml").read_text()
    assert (folder / "logs" / "csv").is_dir()
    assert not (out / "runs" / "wwae_seed0" / job.RESULT).exists()


def test_figures_are_those_of_the_last_state_and_of_the_seed(compared):
    out, _ = compared
    result = json.loads((out / "runs" / "sliced_wae_seed1" / job.RESULT).read_text())
    model, data = (f(job.checkpoint_of(result)) for f in (runs.load, runs.load_data))
    assert result["metrics"]["prior"] == pytest.approx(evaluate(model, data, seed=1))
    assert result["metrics"]["prior"] != pytest.approx(evaluate(model, data, seed=0))


def test_a_classifier_is_shared_by_equal_data_only():
    first, same, other = Digits(100), Digits(100), Digits(50)
    assert job._shared(first) is job._shared(same)
    assert job._shared(other) is not job._shared(first)


def test_finished_jobs_are_reused_and_failed_ones_tried_again(
    compared, configs, capsys, monkeypatch
):
    out, _ = compared
    tried = []

    def tried_again(job):
        tried.append(job.name)
        return {"failed": "again", "seconds": 1.0}

    monkeypatch.setattr(command, "run", tried_again)
    before = (out / "results.csv").read_text()
    with pytest.raises(Failure, match="wwae_seed0: again"):
        command.main(arguments(configs, out))
    assert tried == ["wwae_seed0", "wwae_seed1"]
    printed = capsys.readouterr().out
    assert "4 jobs are already done with the same settings and are reused" in printed
    assert "[1/2] wwae, seed 0: failed, 1 s" in printed
    kept = [line for line in before.splitlines() if "wwae" not in line]
    assert [x for x in (out / "results.csv").read_text().splitlines() if "wwae" not in x] == kept
    tried.clear()
    with pytest.raises(Failure):
        command.main(arguments(configs, out, "--epochs", 3, "--systems", "sliced_wae"))
    assert tried == ["sliced_wae_seed0", "sliced_wae_seed1"]


def test_workers_give_what_this_process_gives(compared, configs, tmp_path):
    out, _ = compared
    options = command.parse(arguments(configs, tmp_path, "--systems", "sliced_wae"))
    (first, _) = plan.jobs(options, 2)
    ((_, result),) = workers.run_all(job.run, [first], 2)  # a process of its own
    here = json.loads((out / "runs" / first.name / job.RESULT).read_text())
    assert result["metrics"] == here["metrics"]
    assert result["settings"] == here["settings"]
    assert (tmp_path / "runs" / first.name / "index.html").is_file()


def test_a_comparison_that_was_moved_is_reused_and_one_without_checkpoint_is_not(
    compared, configs, tmp_path
):
    out, _ = compared
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    options = command.parse(arguments(configs, moved, "--systems", "sliced_wae"))
    first, second = plan.jobs(options, 2)
    checkpoint = job.checkpoint_of(job.finished(first))
    assert checkpoint.is_relative_to(moved)
    checkpoint.unlink()
    assert job.finished(first) is None
    assert job.finished(second) is not None

import csv
import json
import math
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from models_support import IGNORED, build, call, one_thread  # noqa: F401

from models import report, runs
from models.autoencoder import Autoencoder
from models.compare import command, gallery, job, plan, rows, summary, table, workers
from models.compare.summary import Cell, Line
from models.compare.timing import EpochTimer
from models.data import Digits
from models.evaluation import METRICS
from models.failures import INTERRUPTED, Failure

pytestmark = IGNORED

# --- the plan -------------------------------------------------------------------------------------

CONFIG = """
model:
  class_path: models.systems.{cls}
  init_args:
    prior: gaussian
    latent_dim: 2
    network: {network}
    weight: {weight}
{more}
data:
  class_path: models.data.{data}
  init_args:
    batch_size: 100
trainer:
  max_epochs: {epochs}
"""


def write_config(
    folder, name, cls, weight, network="mlp", data="EightGaussians", epochs=2, more=()
):
    more = "\n".join(f"    {line}" for line in more)
    settings = dict(cls=cls, weight=weight, network=network, data=data, epochs=epochs, more=more)
    (folder / f"{name}.yaml").write_text(CONFIG.format(**settings))


def parsed(*arguments):
    return command.parse([str(argument) for argument in arguments])


def after(option, arguments):
    return arguments[arguments.index(option) + 1]


def test_committed_digits_configs_make_one_job_each_and_seed():
    options = parsed("--seeds", 2)
    found = plan.configs("digits", None)
    planned = plan.jobs(options, plan.shared_epochs(found.values()))
    assert list(found)[:2] == ["autoencoder", "vae"]
    assert [(j.system, j.seed) for j in planned] == [(s, k) for k in (0, 1) for s in found]
    assert {after("--trainer.max_epochs", j.arguments) for j in planned} == {"350"}
    assert planned[0].laws == ("prior", "unit", "gaussian", "mixture", "codes")
    assert planned[1].laws == ("prior",)


def test_epochs_rescale_the_first_stage_and_arch_replaces_the_network(tmp_path):
    write_config(tmp_path, "x_a", "StackedWAE", 3.0, epochs=200, more=["first_epochs: 150"])
    write_config(tmp_path, "x_b", "SlicedWAE", 10.0, epochs=200)
    options = parsed("--data", "x", "--configs", tmp_path, "--arch", "conv", "--seeds", 1)
    first, second = plan.jobs(options, 20)
    assert after("--model.first_epochs", first.arguments) == "15"
    assert after("--model.network", first.arguments) == "conv"
    assert "--model.first_epochs" not in second.arguments
    assert plan.jobs(parsed("--data", "x", "--configs", tmp_path), 200)[0].arguments.count(
        "--model.network"
    ) == 0  # fmt: skip


@pytest.mark.parametrize(("epochs", "interval"), [(350, 70), (20, 4), (7, 1), (1, 1), (12, 2)])
def test_the_last_epoch_is_evaluated(epochs, interval, tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)
    (only,) = plan.jobs(parsed("--data", "x", "--configs", tmp_path, "--seeds", 1), epochs)
    assert after("--trainer.check_val_every_n_epoch", only.arguments) == str(interval)
    assert epochs % interval == 0


def test_settings_differ_where_results_may(tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)

    def settings(*arguments, epochs=2):
        options = parsed("--data", "x", "--configs", tmp_path, *arguments)
        return [j.settings for j in plan.jobs(options, epochs)]

    first, second, _ = settings()
    assert first != second  # the seed
    assert first == settings("--jobs", 1, "--out", tmp_path / "elsewhere")[0]
    for other in (settings(epochs=3), settings("--arch", "conv"), settings("--accelerator", "auto"),
                  settings("--features", "math:sqrt")):  # fmt: skip
        assert first != other[0]
    write_config(tmp_path, "x_a", "SlicedWAE", 11.0)
    assert first != settings()[0]


BAD = {
    "data": (["--data", "nope"], "--data must be the first part of the name of a config in"),
    "systems": (["--systems", "vae", "nope"], "--systems must be among autoencoder, vae"),
    "seeds": (["--seeds", 0], "--seeds must be at least 1; got 0"),
    "jobs": (["--jobs", 0], "--jobs must be at least 1; got 0"),
    "epochs": (["--epochs", 0], "--epochs must be at least 1; got 0"),
    "features": (["--features", "nope:f"], "must be package.module:function"),
    "no features": (["--data", "celeba"], "--features must be given for CelebA"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_trains_nothing(case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    code, _, err = call("compare", *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_configs_of_unlike_budgets_need_a_word(tmp_path):
    write_config(tmp_path, "x_a", "SlicedWAE", 10.0, epochs=2)
    write_config(tmp_path, "x_b", "SlicedWAE", 10.0, epochs=3)
    code, _, err = call("compare", "--data", "x", "--configs", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "--epochs must be given where configs differ in trainer.max_epochs, [2, 3]" in err


# --- the table ------------------------------------------------------------------------------------


def line(title="a", competes=True, failures=(), **cells):
    cells = {k: v if isinstance(v, Cell) else Cell(*v, 3) for k, v in cells.items()}
    return Line(rows.Row(title, "prior", title, "", competes), cells, failures)


def test_mean_and_standard_deviation():
    assert Cell.of([1.0, 2.0, 6.0]) == Cell(3.0, pytest.approx(7**0.5), 3)
    assert Cell.of([4.0]) == Cell(4.0, None, 1)


def test_best_is_ahead_by_more_than_both_spreads():
    a, b, c = line(fd=(1.0, 0.4)), line(fd=(2.0, 0.5)), line(fd=(9.0, 0.1))
    assert summary.best([b, a, c], "fd") is a
    close = line(fd=(1.8, 0.5))
    assert summary.best([a, b, c, close], "fd") is None
    assert summary.best([a, line(fd=(1.9, 0.5))], "fd") is None  # equal to the spread: not more
    wide = line(fd=(9.0, 9.0))
    assert summary.best([a, b, wide], "fd") is None


def test_best_goes_by_the_direction_of_the_metric():
    low, high = line(confidence=(0.5, 0.01)), line(confidence=(0.8, 0.01))
    assert METRICS["confidence"].better == "high"
    assert summary.best([low, high], "confidence") is high
    assert summary.best([line(fd_codes=(1, 0)), line(fd_codes=(2, 0))], "fd_codes") is None
    seconds = [line(seconds_per_epoch=(1, 0)), line(seconds_per_epoch=(2, 0))]
    assert summary.best(seconds, summary.SECONDS) is None


def test_beyond_the_reference_is_no_better_than_at_it():
    floor = {"code_mmd_train": (0.001, 0.0)}
    below = line(code_mmd=(-0.005, 1e-4), **floor)
    at, far = line(code_mmd=(0.001, 1e-4), **floor), line(code_mmd=(0.02, 1e-4), **floor)
    assert summary.best([below, at, far], "code_mmd") is None
    assert summary.best([below, far], "code_mmd") is below
    data = {"classes_data": (9.9, 0.0)}
    more, enough = line(classes=(10.0, 0.01), **data), line(classes=(9.9, 0.01), **data)
    assert summary.best([more, enough], "classes") is None
    # Without a reference, an unbiased distance of zero is a match.
    match, worse = line(prior_mmd=(-0.01, 1e-4)), line(prior_mmd=(0.0, 1e-4))
    assert summary.best([match, worse], "prior_mmd") is None


def test_what_takes_no_part_is_not_best():
    a, b = line(fd=(1.0, 0.1)), line(fd=(2.0, 0.1))
    assert summary.best([a, b, line(fd=(0.1, 0.0), competes=False)], "fd") is a
    assert summary.best([a, b, line(fd=(0.1, 0.0), failures=("seed 0: NaN",))], "fd") is a
    assert summary.best([a, b, line(fd=(math.nan, math.nan))], "fd") is a
    assert summary.best([line(fd=(1.0, None)), line(fd=(2.0, None))], "fd") is None
    assert summary.best([a], "fd") is None


def test_references_are_a_number_or_a_range():
    lines = [line(fd=(3, 1), fd_train=(0.5648, 0)), line(fd=(4, 1), fd_train=(0.5648, 0))]
    assert table.references(lines, ["fd"]) == {"fd": "0.56"}
    lines[1].cells["fd_train"] = Cell(0.7, 0.0, 3)
    assert table.references(lines, ["fd", "mse_per_pixel"]) == {
        "fd": "0.56 to 0.70",
        "mse_per_pixel": "",
    }


def test_markdown_has_the_best_in_bold():
    lines = [
        line("A", fd=(4.316, 0.2), mse_per_pixel=(0.0128, 0.0), fd_train=(0.56, 0)),
        line("B", fd=(6.3, 1.0), mse_per_pixel=(0.0128, 0.0), fd_train=(0.56, 0)),
        Line(rows.Row("C", "prior", "C", ""), {}, ("seed 0: NaN",)),
    ]
    head, rule, *body = table.as_markdown(lines).splitlines()
    assert head == "|  | test MSE per pixel | FD |"
    assert set(rule) <= set("| -")
    assert body[0] == "| A | 0.0128 ± 0.0000 | **4.32 ± 0.20** |"
    assert body[1] == "| B | 0.0128 ± 0.0000 | 6.30 ± 1.00 |"
    assert body[2] == "| C | failed |  |"
    assert body[3].startswith("| real data or a perfect match |  | 0.56 |")


def test_every_column_stands_in_one_table():
    keys = [key for key in table.COLUMNS if key not in table.REFERENCES]
    parts = table.split(keys)
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(parts)


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_of_images_have_a_strip_for_every_row(tmp_path, monkeypatch):
    strips = {}
    monkeypatch.setattr(
        gallery, "_strips", lambda s, columns: strips.setdefault(len(strips), s) and Figure()
    )
    plain, other = (build(Autoencoder, seed=seed).eval() for seed in (0, 1))
    models = [(row, plain) for row in rows.rows_of("autoencoder")]
    models += [(row, other) for row in rows.rows_of("vae")]
    written = gallery.draw(models, Digits(), tmp_path)
    assert [name for name, _, _ in written] == [
        "samples.png", "reconstructions.png", "interpolations.png",
    ]  # fmt: skip
    samples, reconstructions, interpolations = strips.values()
    assert list(samples) == ["test images", *(row.title for row, _ in models)]
    assert torch.equal(samples["test images"], Digits().test[: len(samples["VAE"])][0])
    noise = plain.prior.sample_independent(40, torch.Generator().manual_seed(gallery.SEED))
    for title, model in (("AE, N(0, I)", plain), ("VAE", other)):  # the same noise
        assert torch.allclose(samples[title], model.decoder(noise), atol=1e-6)
    assert list(reconstructions) == ["test images", "AE", "VAE"]
    assert torch.allclose(reconstructions["VAE"], other(reconstructions["test images"]))
    assert list(interpolations) == ["AE", "VAE"]
    assert torch.allclose(interpolations["AE"][:1], reconstructions["AE"][:1], atol=1e-6)


def test_strips_lie_below_each_other(tmp_path):
    ink = {"a": torch.ones(4, 1, 8, 8), "b": torch.zeros(4, 1, 8, 8)}
    gallery.pictures.save(gallery._strips(ink, 4), tmp_path / "a.png")
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., 0]
    middle = picture.shape[0] // 2
    assert picture[:middle].mean() < picture[middle:].mean() - 0.2  # ink is dark


# --- jobs -----------------------------------------------------------------------------------------


def test_a_worker_that_dies_takes_only_its_job_with_it():
    tasks = ["2 + 2", "__import__('os')._exit(3)", "__import__('os').getpid()"]
    results = dict(workers.run_all(eval, tasks, 2))
    assert results["2 + 2"] == 4
    assert results[tasks[1]] == {"failed": "its process ended with exit code 3"}
    assert results[tasks[2]] not in (None, os.getpid())


def test_one_worker_is_this_process():
    assert list(workers.run_all(eval, ["__import__('os').getpid()"], 1))[0][1] == os.getpid()


def test_timer_leaves_validation_out(monkeypatch):
    clock = iter([10.0, 11.0, 15.0, 17.0, 20.0, 24.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timer, trainer = EpochTimer(), SimpleNamespace(sanity_checking=False)
    timer.on_train_epoch_start(trainer, None)  # 10
    timer.on_validation_start(trainer, None)  # 11: one second
    timer.on_validation_end(trainer, None)  # 15
    timer.on_train_epoch_end(trainer, None)  # 17: two more
    timer.on_train_epoch_start(trainer, None)  # 20
    timer.on_train_epoch_end(trainer, None)  # 24: four more
    assert timer.seconds_per_epoch == 7 / 2


def test_ctrl_c_ends_the_comparison_and_not_only_the_job(tmp_path, monkeypatch):
    def interrupted(arguments):
        raise Failure("interrupted", INTERRUPTED)

    write_config(tmp_path, "x_a", "SlicedWAE", 10.0)
    monkeypatch.setattr(job.cli, "CLI", interrupted)
    with pytest.raises(Failure, match="the same command goes on") as caught:
        command.main(["--data", "x", "--configs", str(tmp_path), "--out", str(tmp_path / "out"),
                      "--jobs", "1"])  # fmt: skip
    assert caught.value.code == INTERRUPTED


# --- the whole command ----------------------------------------------------------------------------


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
    more = ["--systems", "autoencoder", "sliced_wae", "--seeds", "1", "--jobs", "2"]
    command.main(arguments(configs, tmp_path / "out", *more))
    for name in ("autoencoder_seed0", "sliced_wae_seed0"):
        here, there = (
            json.loads((folder / "runs" / name / job.RESULT).read_text())
            for folder in (out, tmp_path / "out")
        )
        assert there["metrics"] == here["metrics"]
    assert (tmp_path / "out" / "runs" / "sliced_wae_seed0" / "index.html").is_file()

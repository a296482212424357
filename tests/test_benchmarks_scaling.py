"""``python -m benchmarks.studies.scaling``: records, gate, figure and tables."""

import pytest

from benchmarks import records
from benchmarks.studies import scaling, scaling_page


@pytest.fixture
def page(tmp_path):
    doc = tmp_path / "page.md"
    doc.write_text("# Page\n\n<!-- scaling: begin -->\n<!-- scaling: end -->\n")
    return doc


def run(folder, *more):
    paths = {name: folder / file for name, file in (("records", "r"), ("figure", "f.png"))}
    given = [f"--{name}={path}" for name, path in paths.items()]
    return scaling.main([*given, f"--doc={folder / 'page.md'}", "--allow-dirty", *more])


def test_a_run_of_one_rank(tmp_path, page, monkeypatch):
    monkeypatch.setattr(scaling, "RANKS", (1,))
    assert run(tmp_path, "--smoke", "--seconds=0.01") == 0
    lines = records.read([tmp_path / "r"])
    assert [(line["op"], line["N"]) for line in lines] == [
        (op, n) for op, sizes in scaling.SMOKE.items() for n in sizes
    ]
    assert all(0 < line["ms_p20"] <= line["ms_p50"] <= line["ms_p80"] for line in lines)
    assert all(line["bytes_modelled"] == 0 for line in lines)
    assert (tmp_path / "f.png").stat().st_size > 0
    assert "| `mmd` | 64 |" in page.read_text()


def test_a_wrong_value_is_not_recorded(tmp_path, page, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "RANKS", (2,))
    monkeypatch.setattr(scaling.multiprocessing, "spawn", _write_a_wrong_value)
    assert run(tmp_path, "--smoke") == 2  # and nothing to draw
    assert "no record" not in page.read_text()
    assert not (tmp_path / "r").exists()
    assert "benchmarks.studies.scaling" in capsys.readouterr().err


def _write_a_wrong_value(function, given, nprocs):
    (_, folder, _, _) = given
    with open(f"{folder}/found", "w") as file:
        file.write('[{"op": "mmd", "N": 32, "error_value": NaN}]')


def test_tiny_problems_and_edited_trees_are_not_published(capsys):
    assert scaling.main(["--smoke"]) == 2
    assert "--smoke needs --records" in capsys.readouterr().err
    with pytest.raises(scaling.CannotRun, match="no record of a committed tree"):
        scaling.newest([{"dirty": True, "run": "1"}], allow_dirty=False)


def test_the_table_shows_bytes_beside_the_model():
    facts = dict.fromkeys(("device_name", "torch", "commit", "dirty"), False)
    facts |= {"run": "now", "cores": 2, "load": 0.5, "D": 8, "L": 4, "op": "mmd", "N": 16}
    lines = [
        facts | {"ranks": r, "ms_p50": 8 / r, "bytes_per_rank": 3e6, "bytes_modelled": 2e6}
        for r in (1, 2)
    ]
    text = scaling_page.tables(lines)
    assert "| `mmd` | 16 | 8 | 4 |" in text
    assert "| `mmd` | 16 | 3, 1.50 |" in text

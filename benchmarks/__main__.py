"""Command line: ``python -m benchmarks run | report | growth | gpu``."""

import argparse
import os
import sys
from pathlib import Path

from . import CannotRun, gpu

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
GROWTH = ("time", "memory", "draw")


def main(arguments=None):
    """Run one command and return its exit code: 0 done, 1 something is wrong, 2 cannot run."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks {options.name}: {error}", file=sys.stderr)
        return 2


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)

    run = commands.add_parser("run", help="check, time and record the cases")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    run.add_argument("--cases", default="", metavar="REGEX", help="searched in case names")
    run.add_argument("--smoke", action="store_true", help="tiny shapes; recorded only with --out")
    run.add_argument("--out", type=Path, metavar="FILE", help="default: results/<device>.jsonl")
    run.add_argument("--seconds", type=float, default=10.0, help="time budget of a case")
    run.add_argument("--threads", type=int, help="CPU threads (default: 1 on cpu)")
    run.add_argument("--memory", action="store_true", help="on cpu: also peak memory (slow)")
    run.add_argument("--commit", help="commit of this clean tree, where there is no .git")
    run.add_argument(
        "--continue", dest="resume", action="store_true", help="leave out what --out already holds"
    )
    run.add_argument("--limit", type=float, metavar="SECONDS", help="give up what hangs longer")
    run.set_defaults(command=_run)

    report = commands.add_parser("report", help="draw the records and write them into the docs")
    report.add_argument("--records", type=Path, nargs="+", metavar="FILE")
    report.add_argument("--gpu", type=Path, metavar="DIR", help="results/gpu without --records")
    report.add_argument("--doc", type=Path, default=DOCS / "benchmarks.md", metavar="FILE")
    report.add_argument("--figures", type=Path, default=DOCS / "figures", metavar="DIR")
    report.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    report.set_defaults(command=_report)

    growth = commands.add_parser(
        "growth", help="time and memory against N: records, figures, tables"
    )
    growth.add_argument("--parts", nargs="+", choices=GROWTH, default=GROWTH, help="default: all")
    growth.add_argument("--smoke", action="store_true", help="tiny shapes; needs --records")
    growth.add_argument("--seconds", type=float, default=10.0, help="time budget of each N")
    growth.add_argument("--records", type=Path, metavar="DIR", help="default: results/growth")
    growth.add_argument("--out", type=Path, default=DOCS / "figures", metavar="DIR")
    growth.add_argument("--doc", type=Path, default=DOCS / "benchmarks.md", metavar="FILE")
    growth.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    growth.set_defaults(command=_growth)

    stages = commands.add_parser("gpu", help="tests, checks and records on a GPU, stage by stage")
    stages.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    stages.add_argument("--smoke", action="store_true", help="a few tiny cases of each stage")
    stages.add_argument("--minutes", type=float, default=8.0, help="time for all stages")
    stages.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR")
    names = [stage.name for stage in gpu.stages(Path())]
    stages.add_argument("--stages", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    stages.add_argument("--commit", help="commit of this clean tree, where there is no .git")
    stages.set_defaults(command=_gpu)
    return parser


def _run(options):
    torch = _torch_with(options.threads or (1 if options.device == "cpu" else None))
    from .run import run

    if options.device == "cuda":
        _need_gpu(torch)
    default = None if options.smoke else HERE / "results" / f"{options.device}.jsonl"
    out = options.out or default
    if out is None and options.resume:
        raise CannotRun("--continue with --smoke needs --out")
    red = run(
        options.device,
        pattern=options.cases,
        smoke=options.smoke,
        out=out,
        seconds=options.seconds,
        with_memory=options.memory,
        commit=options.commit,
        resume=options.resume,
        limit=options.limit,
    )
    return _exit_code("run", red)


def _torch_with(threads):
    """Import torch with a number of CPU threads; None leaves it as it is."""
    if threads:  # read by the libraries when they load, so set before torch is imported
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(threads)
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch


def _exit_code(command, red):
    for name in red:
        print(f"benchmarks {command}: wrong result, not recorded: {name}", file=sys.stderr)
    return 1 if red else 0


def _report(options):
    from .pages import report

    if options.gpu is not None and not options.gpu.is_dir():
        raise CannotRun(f"--gpu must be a folder that a run wrote; got {options.gpu}")
    gpu = options.gpu or (report.published_gpu() if options.records is None else None)
    paths = report.write(options.records, gpu, options.doc, options.figures, options.allow_dirty)
    for path in (options.doc, *paths):
        print(path)
    return 0


def _growth(options):
    if options.smoke and options.records is None:
        raise CannotRun("--smoke needs --records, so that tiny shapes are not published")
    _torch_with(1)
    from . import records
    from .pages import page
    from .studies import growth

    folder = options.records or HERE / "results" / "growth"
    files = {kind: folder / f"{kind}_cpu.jsonl" for kind in ("time", "memory")}
    shapes = "smoke" if options.smoke else "growth"
    red = []
    if "time" in options.parts:
        red = growth.time(shapes, files["time"], options.seconds)
    if "memory" in options.parts:
        growth.peaks(shapes, files["memory"])
    if "draw" in options.parts:
        found = {
            kind: records.newest(records.read([file]), options.allow_dirty)
            for kind, file in files.items()
            if file.exists()
        }
        if not found:
            raise CannotRun(f"no records in {folder.name}/; first without --parts draw")
        for kind, lines in found.items():
            path = options.out / f"growth_{kind}_cpu.png"
            {"time": growth.draw_time, "memory": growth.draw_memory}[kind](lines, path)
            print(path)
        page.write(options.doc, growth.text(found.get("time"), found.get("memory")), "growth")
    return _exit_code("growth", red)


def _gpu(options):
    facts = gpu.environment(options.device, options.smoke, options.commit)
    stages = gpu.stages(options.out, options.device, options.smoke, options.commit)
    return gpu.run_stages(stages, options.out, options.minutes, facts, options.stages)


def _need_gpu(torch):
    if not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")


if __name__ == "__main__":
    sys.exit(main())

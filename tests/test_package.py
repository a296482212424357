"""What holds for the package as a whole: public names, layers, a lean import."""

import ast
import pathlib
import subprocess
import sys

import pytest

import otkernels

ROOT = pathlib.Path(otkernels.__file__).parent
# Each module may import, of otkernels, what stands to its right, and the types of signatures.
LAYERS = {
    "_check": set(),
    "_types": set(),
    "_version": set(),
    "_ops": {"_check", "_transforms"},
    "_transforms": set(),
    "_products": {"_ops"},
    "_masses": set(),
    "_measures": {"_check"},
    "_quantiles": {"_masses", "_transforms"},
    "_results": set(),
    "_slicing": {"_check", "_measures", "_ops", "projections"},
    "_kernels": {"_products"},
    "_kernel_sums": {"_kernels", "_ops", "_results"},
    "bandwidth": {"_check", "_kernels", "_measures", "_ops", "_transforms"},
    "mmd": {"_check", "_kernel_sums", "_kernels", "_measures", "_ops", "_results", "bandwidth"},
    "projections": {"_check", "_ops"},
    "sliced": {
        "_check",
        "_masses",
        "_measures",
        "_ops",
        "_products",
        "_quantiles",
        "_results",
        "_slicing",
    },
    "sliced_to_normal": {
        "_check",
        "_masses",
        "_measures",
        "_ops",
        "_products",
        "_quantiles",
        "_results",
        "_slicing",
    },
    "sliced_info": {"_check", "_slicing", "sliced"},
    "max_sliced": {"_check", "_ops", "_results", "_slicing", "_transforms", "sliced"},
    "_circle": {"_quantiles", "_transforms"},
    "spherical": {"_check", "_circle", "_measures", "_ops", "_products", "_results"},
    "mmd_blocks": {"_check", "_kernels", "_results", "bandwidth", "mmd"},
    "random_features": {
        "_check",
        "_kernels",
        "_measures",
        "_ops",
        "_products",
        "_results",
        "bandwidth",
        "frequencies",
        "mmd",
    },
    "frequencies": {"_check", "_kernels", "_ops"},
    "_roots": {"_ops"},
    "_polar_schedule": set(),
    "_fidelity": {"_ops", "_results", "_roots"},
    "sqrtm": {"_check", "_ops", "_roots"},
    "bures": {"_check", "_fidelity", "_ops", "_results", "sqrtm"},
    "gaussian": {
        "_check",
        "_fidelity",
        "_measures",
        "_ops",
        "_results",
        "_roots",
        "_transforms",
        "bures",
        "moments",
    },
    "two_sample": {"_check", "_kernels", "_measures", "_ops", "bandwidth", "mmd"},
    "gaussian_map": {"_fidelity", "_ops", "_roots", "bures", "sqrtm"},
    "moments": {"_check", "_measures", "_ops", "_products", "_transforms"},
    "distributed._ranks": {"_check", "_ops"},
    "distributed._shares": {"_check", "_measures", "_ops", "_transforms"},
    "distributed.sliced": {
        "_check",
        "_results",
        "_slicing",
        "_transforms",
        "distributed._ranks",
        "distributed._shares",
        "sliced",
        "sliced_to_normal",
    },
    "distributed.mmd": {
        "_check",
        "_kernel_sums",
        "_measures",
        "_ops",
        "_results",
        "_transforms",
        "bandwidth",
        "distributed._ranks",
        "distributed._shares",
        "mmd",
    },
    "distributed.gaussian": {
        "_check",
        "_measures",
        "_ops",
        "bures",
        "distributed._ranks",
        "distributed._shares",
        "gaussian",
    },
    "distributed.__init__": {"distributed.gaussian", "distributed.mmd", "distributed.sliced"},
    "metrics.__init__": {"metrics.frechet", "metrics.kid", "metrics.mmd", "metrics.sliced"},
    "metrics.frechet": {"_ops", "_results", "_roots", "bures", "metrics._stream"},
    "metrics.kid": {"_check", "mmd"},
    "metrics._stream": {"_check"},
    "metrics._reservoir": {"_check", "metrics._stream"},
    "metrics.mmd": {"_check", "bandwidth", "metrics._reservoir", "mmd"},
    "metrics.sliced": {"_check", "metrics._reservoir", "projections", "sliced"},
    "compat.__init__": set(),
    "compat._arrays": {"_check"},
    "compat._pot_draws": {"_check", "compat._arrays"},
    "compat._pot_gaussian": {
        "_check",
        "bures",
        "compat._arrays",
        "gaussian_map",
        "moments",
        "sqrtm",
    },
    "compat.geomloss": {"_check", "_kernel_sums", "_kernels", "_ops"},
    "compat.pot": {
        "_check",
        "_results",
        "compat._arrays",
        "compat._pot_draws",
        "compat._pot_gaussian",
        "sliced",
        "spherical",
    },
    "losses._loss": {"_check", "distributed"},
    "losses.sliced": {
        "_check",
        "distributed._ranks",
        "losses._loss",
        "max_sliced",
        "projections",
        "sliced",
        "sliced_to_normal",
    },
    "losses.mmd": {"_check", "_kernels", "bandwidth", "distributed.mmd", "losses._loss", "mmd"},
    "losses.gaussian": {"_check", "gaussian", "losses._loss"},
    "losses.__init__": {"losses.gaussian", "losses.mmd", "losses.sliced"},
    "__init__": {
        "_version",
        "bandwidth",
        "bures",
        "frequencies",
        "gaussian",
        "gaussian_map",
        "losses",
        "max_sliced",
        "mmd",
        "mmd_blocks",
        "moments",
        "projections",
        "random_features",
        "sliced",
        "sliced_info",
        "sliced_to_normal",
        "spherical",
        "sqrtm",
        "two_sample",
    },
    "cpu.bures": {"_fidelity", "_ops", "cpu.factors", "cpu.polar"},
    "cpu.factors": {"cpu.polar"},
    "cpu.polar": {"_polar_schedule"},
    "cpu.sqrtm": {"_ops", "cpu.factors", "cpu.polar"},
    "cpu.moments": {"_ops"},
    "cpu.match": {"_masses", "_quantiles", "cpu.rows"},
    "cpu.mmd": {"_ops", "cpu.pairs", "cpu.pooled", "cpu.profiles"},
    "cpu.pairs": {"cpu.profiles"},
    "cpu.pooled": {"_ops", "cpu.profiles"},
    "cpu.profiles": set(),
    "cpu.rows": set(),
    "cpu.spherical": {"_circle", "cpu.rows"},
    "cpu.sliced": {"_masses", "_ops", "cpu.match", "cpu.rows"},
    "kernels.bures": {
        "_fidelity",
        "_ops",
        "kernels.bures_large",
        "kernels.covariance_gradient",
        "kernels.factor",
        "kernels.factor_large",
        "kernels.polar",
        "kernels.polar_double",
        "kernels.products",
    },
    "kernels.bures_large": {"kernels.polar_double", "kernels.polar_large", "kernels.products"},
    "kernels.covariance_gradient": {"kernels.inside", "kernels.polar", "kernels.polar_double"},
    "kernels.factor": set(),
    "kernels.factor_large": {"kernels.factor"},
    "kernels.inside": set(),
    "kernels.polar": {"_polar_schedule", "kernels.inside", "kernels.polar_large"},
    "kernels.polar_double": {"kernels.inside", "kernels.polar"},
    "kernels.polar_large": {"_polar_schedule", "kernels.products"},
    "kernels.products": {"kernels.matmul"},
    "kernels.moments": {"_ops", "kernels.matmul"},
    "kernels.sqrtm": {
        "_ops",
        "kernels.factor",
        "kernels.factor_large",
        "kernels.polar_large",
        "kernels.products",
    },
    "kernels.cells": {"_masses", "kernels.match", "kernels.rows", "kernels.sort"},
    "kernels.match": {"kernels.rows", "kernels.sort"},
    "kernels.matmul": set(),
    "kernels.mmd": {"_ops", "kernels.split", "kernels.walks"},
    "kernels.pairs": {"kernels.split"},
    "kernels.profiles": set(),
    "kernels.rows": {"kernels.sort"},
    "kernels.sliced": {"_masses", "_ops", "kernels.cells", "kernels.match", "kernels.matmul"},
    "kernels.sort": set(),
    "kernels.split": {"_ops"},
    "kernels.walks": {"kernels.pairs", "kernels.profiles", "kernels.split"},
    "cpu.__init__": set(),
    "kernels.__init__": set(),
}


def imports(path):
    """Modules of otkernels that a file imports, as names below otkernels."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield from _names(".".join(base), node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otkernels"):
            yield from _names("", node, node.module.removeprefix("otkernels").removeprefix("."))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("otkernels."), path


def _names(base, node, module=None):
    module = node.module if module is None else module
    if module:
        yield f"{base}.{module}".removeprefix(".")
    else:
        for alias in node.names:
            yield f"{base}.{alias.name}".removeprefix(".")


def test_layers():
    seen = set()
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name.startswith("verify."):
            continue
        seen.add(name)
        found = set(imports(path)) - {"_types"}
        assert found <= LAYERS[name], (name, found - LAYERS[name])
    assert seen == set(LAYERS)


@pytest.mark.parametrize("folder", ["models", "benchmarks"])
def test_programs_use_public_names_only(folder):
    # They name launch choices, count launches and look for kernels, none of which is public.
    names = ("tune/points.py", "tune/matrices.py", "launches.py", "checks/small.py")
    own = {ROOT.parent / "benchmarks" / name for name in names}
    for path in set((ROOT.parent / folder).rglob("*.py")) - own:
        private = {n for n in imports_of_program(path) if n.rpartition(".")[2].startswith("_")}
        modules = {n for n in imports_of_program(path) if n.startswith(("cpu", "kernels"))}
        assert not private | modules, path


def imports_of_program(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otkernels"):
            yield from _names("", node, node.module.removeprefix("otkernels").removeprefix("."))
            yield from (alias.name for alias in node.names)


def test_public_names():
    assert sorted(otkernels.__all__) == otkernels.__all__
    for name in otkernels.__all__:
        assert getattr(otkernels, name) is not None
    for name in set(otkernels.__all__) - {"__version__"}:
        assert getattr(otkernels, name).__doc__


LEAN = """
import sys
blocked = ("triton", "ot", "geomloss", "lightning", "matplotlib", "scipy", "sklearn", "pykeops")
for name in blocked:
    sys.modules[name] = None
import torch
import otkernels
x, y = torch.rand(5, 2, requires_grad=True), torch.rand(5, 2)
otkernels.sliced_wasserstein(x, y).backward()
assert x.grad.isfinite().all()
loaded = [m for m in sys.modules if m.startswith(("otkernels.kernels", "otkernels.verify"))]
assert not loaded, loaded
assert not torch.cuda.is_initialized()
"""


def test_import_needs_only_torch_and_numpy_and_touches_no_gpu(tmp_path):
    path = [str(ROOT.parent)] + [p for p in sys.path if p]
    code = f"import sys; sys.path[:] = {path!r}\n{LEAN}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

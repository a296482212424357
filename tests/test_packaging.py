"""What a user installs: the wheel and the source distribution, and what an index shows of them."""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
OUTSIDE = shutil.ignore_patterns(
    ".*cache", ".benchmarks", ".git", ".venv", "__pycache__", "*.egg-info", "build", "datasets",
    "dist", "runs", "_build", "auto_gallery",
)  # fmt: skip
UNTRACKED = "docs/_build/", "docs/auto_gallery/"


def run(*command, cwd):
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of the source distribution, and those of the wheel that is built from it."""
    place = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, place / "tree", ignore=OUTSIDE)
    # Without a sdist or wheel asked for, build makes the wheel from the sdist.
    run("build", "--no-isolation", "--outdir", "../dist", ".", cwd=place / "tree")
    run("twine", "check", "--strict", *map(str, (place / "dist").iterdir()), cwd=place)
    (sdist,), (wheel,) = (list((place / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as tar:
        members = {m.name.partition("/")[2]: m for m in tar if m.isfile()}
        in_sdist = {name: tar.extractfile(m).read() for name, m in members.items()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(name) for name in archive.namelist()}
    return in_sdist, in_wheel


def files(*folders):
    """Files below the folders of the tree, without what is made by running it."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    return {n for n in names if "__pycache__" not in n and not n.startswith(UNTRACKED)}


def metadata(in_wheel):
    (name,) = (name for name in in_wheel if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(in_wheel[name])


def test_wheel_holds_the_package_and_nothing_else(built):
    package = {name for name in built[1] if ".dist-info/" not in name}
    assert package == files("otkernels")
    assert "otkernels/py.typed" in package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built[1])


def test_wheel_from_the_source_distribution_is_that_of_the_tree(built):
    in_sdist, in_wheel = built
    for name in files("otkernels"):
        assert in_wheel[name] == in_sdist[name] == (ROOT / name).read_bytes(), name


def test_source_distribution_can_be_tested(built):
    wanted = files("otkernels", "tests", "docs", "models", "benchmarks")
    wanted |= {"LICENSE", "README.md", "Makefile", ".ci/constraints.txt", "pyproject.toml"}
    assert wanted <= set(built[0])
    assert not [name for name in built[0] if name.endswith((".pyc", ".whl"))]


def test_description_works_without_the_repository(built):
    text = metadata(built[1]).get_payload()
    assert text.strip() == (ROOT / "DESCRIPTION.md").read_text().strip()
    assert not re.search(r"\]\((?!https://)", text)
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    exec(example, names)
    assert names["codes"].grad.isfinite().all()


def test_core_dependencies_are_torch_numpy_and_triton(built):
    required = metadata(built[1]).get_all("Requires-Dist")
    core = {re.match(r"[\w-]+", line).group() for line in required if "extra ==" not in line}
    assert core == {"torch", "numpy", "triton"}


ALONE = """
import sys
import torch
before = set(sys.modules)
import otkernels
new = set(sys.modules) - before
assert not torch.cuda.is_initialized()
print(*new)
"""


def test_import_adds_little_to_that_of_torch(tmp_path):
    path = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ALONE]
    environment = {**os.environ, **path}
    out = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    new = set(out.split())
    own = {name for name in new if name.partition(".")[0] == "otkernels"}
    lazy = {"otkernels.compat", "otkernels.cpu", "otkernels.kernels", "otkernels.metrics"}
    assert "otkernels.sliced" in own
    assert not own & {*lazy, "otkernels.verify"}
    # What torch imports by itself differs from version to version; what it leaves out is costly.
    strange = {name for name in new - own if name.partition(".")[0] not in sys.stdlib_module_names}
    costly = ("torch._dynamo", "torch._inductor", "torch.onnx", "torch.testing")
    assert not [name for name in strange if name.startswith(costly)]
    assert {name.partition(".")[0] for name in strange} <= {"torch"}

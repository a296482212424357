"""Calls from several Python threads at once, and from the worker processes of a data loader."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from public_calls import CALLS, tensors

import otkernels as ot

WORKERS = 8
# Processes that hang are ended after so many seconds, and the test fails.
PATIENCE = 240

# What draws, with the draw given: torch's global stream is one for all threads.
THETA = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator()), dim=0)
CIRCLES = ot.sample_great_circles(3, 4, generator=torch.Generator())
DRAWN = {
    "sliced_wasserstein_to_normal": (ot.sliced_wasserstein_to_normal, 1, THETA),
    "max_sliced_wasserstein": (partial(ot.max_sliced_wasserstein, n_steps=3), 2, THETA),
    "sliced_wasserstein_sphere": (ot.sliced_wasserstein_sphere, 2, CIRCLES),
    "sliced_wasserstein_with_info": (ot.sliced_wasserstein_with_info, 2, THETA),
}


class Job:
    """One call with inputs of its own, made in the main thread."""

    def __init__(self, function, inputs, wrt):
        self.function, self.inputs, self.wrt = function, inputs, wrt

    def __call__(self):
        """Values and gradients."""
        given = [
            t.detach().requires_grad_() if k in self.wrt else t for k, t in enumerate(self.inputs)
        ]
        found = tensors(self.function(*given))
        total = sum(t.sum() for t in found if t.requires_grad)
        grads = torch.autograd.grad(total, [given[k] for k in self.wrt]) if self.wrt else ()
        return [t.detach() for t in (*found, *grads)]


def jobs(impl, sizes):
    made = []
    for n in sizes:
        for call in CALLS:
            if not call.draws and (impl in call.impls or call.impls == (None,)):
                function = call.build(impl if impl in call.impls else None)
                made.append(Job(function, call.inputs(n), call.wrt))
        for function, clouds, projections in DRAWN.values():
            inputs = [torch.nn.functional.normalize(torch.randn(n, 3), dim=-1) for _ in "xy"]
            function = partial(function, projections=projections, impl=impl)
            made.append(Job(function, inputs[:clouds], range(clouds)))
    return made


@pytest.fixture
def hasty():
    """Python threads take turns fifty times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("impl", "sizes"), [("torch", (7,)), ("cpu", (7, 200))])
def test_calls_from_many_threads_give_the_bits_of_one(impl, sizes):
    made = jobs(impl, sizes)
    expected = [job() for job in made]
    order = [k for k in range(len(made)) for _ in range(2)]
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda k: made[k](), order))
    for k, result in zip(order, found, strict=True):
        for actual, wanted in zip(result, expected[k], strict=True):
            assert torch.equal(actual, wanted), made[k].function


@pytest.mark.usefixtures("hasty")
def test_threads_do_not_share_workspaces():
    """Clouds of several chunks, of one size and of others, in all threads at once."""

    def run(seed):
        stream = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(2000 + 100 * (seed % 3), 3, generator=stream) for _ in range(2))
        x.requires_grad_()
        value = ot.sliced_wasserstein(x, y, projections=THETA.repeat(1, 8), impl="cpu")
        return value, torch.autograd.grad(value, x)[0]

    seeds = list(range(24))
    expected = [run(seed) for seed in seeds]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(run, seeds))
    for pair, wanted in zip(found, expected, strict=True):
        assert torch.equal(pair[0], wanted[0])
        assert torch.equal(pair[1], wanted[1])


# --- processes ------------------------------------------------------------------------------------

LOSSES = """
import threading
import torch
import otkernels as ot

def losses(seed, n=64):
    stream = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 4, generator=stream, requires_grad=True) for _ in range(2))
    theta = torch.randn(4, 16, generator=stream)
    found = [
        ot.sliced_wasserstein(x, y, projections=theta),
        ot.sliced_wasserstein_to_normal(x, projections=theta),
        ot.mmd(x, y),
        ot.gaussian_wasserstein(x, y),
        ot.sqrtm(ot.mean_cov(x)[1]).sum(),
        ot.wasserstein_circle(x[:, 0], y[:, 0]),
    ]
    grads = [torch.autograd.grad(value, x, retain_graph=True)[0].sum() for value in found]
    return torch.stack([*found, *grads]).detach()
"""

FIRST_CALLS = """
def call(k):
    barrier.wait()
    results[k] = losses(k)

barrier, results = threading.Barrier(8), {}
threads = [threading.Thread(target=call, args=(k,)) for k in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(torch.equal(results[k], losses(k)) for k in range(8))
"""

LOADER = """
import sys

class Losses(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, k):
        return losses(k)

def collate(rows):
    points = torch.stack(rows)
    return points, ot.energy_distance(points, points + 1)

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = torch.stack([losses(k) for k in range(4)])
    losses(0, 1000)  # so that the threads of torch and our own have been at work before a fork
    loader = torch.utils.data.DataLoader(
        Losses(), 2, num_workers=2, multiprocessing_context=sys.argv[1], collate_fn=collate
    )
    for first, (points, distance) in zip((0, 2), loader):
        assert torch.allclose(points, expected[first : first + 2], rtol=1e-5)
        assert torch.allclose(distance, ot.energy_distance(points, points + 1), rtol=1e-5)
"""


def run_script(path, source, *arguments):
    path.write_text(source)
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_first_calls_at_the_same_time(tmp_path):
    """Implementations are imported, and tables made, by whichever thread comes first."""
    run_script(tmp_path / "first.py", LOSSES + FIRST_CALLS)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(start, tmp_path):
    """The parent has called the functions before, with several threads."""
    if start == "fork" and sys.platform != "linux":
        pytest.skip("forking is for Linux")
    run_script(tmp_path / "loader.py", LOSSES + LOADER, start)

"""A uniform sample of bounded size of each stream, which can be merged."""

import functools

import torch
from torchmetrics.utilities.distributed import gather_all_tensors

from .. import _check
from ._stream import KINDS, Stream

DTYPES = (torch.float32, torch.float64)


class Reservoir(Stream):
    """A metric of at most ``capacity`` samples of each kind.

    Each sample gets a random key, and the ``capacity`` smallest keys are held with their samples: a
    uniform draw without replacement from all samples of that kind, whatever their order, and that
    of a union is found among what is held of its parts (Cohen, Kaplan 2007, "Summarizing data using
    bottom-k sketches", with equal weights). Samples stay in the order of their arrival, those of
    ranks one rank after the other.

    A subclass computes ``_between(real, fake)`` of two clouds (N, D) and (M, D), and may set
    ``least``, the number of samples of each kind that it needs.
    """

    parts = ("keys", "samples", "count")
    least = 1

    def __init__(
        self, feature, num_features, reset_real_features, capacity, seed, dtype, impl, **kwargs
    ):
        super().__init__(feature, num_features, reset_real_features, impl, **kwargs)
        name = type(self).__name__
        _check.positive_int(name, "capacity", capacity)
        _check.not_negative_int(name, "seed", seed)
        _check.require(seed < 2**63, name, "seed", "be below 2^63", seed)
        _check.require(dtype in DTYPES, name, "dtype", "be float32 or float64", dtype)
        self.capacity = capacity
        self.seed = seed
        for kind in KINDS:
            self.add_state(f"{kind}_keys", torch.zeros(0, dtype=torch.int64))
            self.add_state(f"{kind}_samples", torch.zeros(0, self.num_features, dtype=dtype))
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.int64))

    def _added(self, kind, held, features):
        keys, samples, count = held
        new = self._new_keys(kind, count, len(features))
        joined = torch.cat([keys, new]), torch.cat([samples, features.to(samples.dtype)])
        return *self._smallest(*joined), count + len(features)

    def _new_keys(self, kind, count, n):
        """Keys (n,) of the samples number count, count + 1, ... of this kind on this rank."""
        start = _start(self.seed, 2 * _rank() + KINDS.index(kind))
        return _mixed(start + count + torch.arange(n, device=count.device))

    def _smallest(self, keys, samples):
        """What is held of all these keys (N,) and samples (N, D), in their order."""
        if len(keys) <= self.capacity:
            return keys, samples
        held = keys <= _largest_held(keys, self.capacity)
        return keys[held], samples[held]

    def _distance(self, real, fake):
        (_, x, _), (_, y, _) = real, fake
        self._require_samples(self.least, (len(x), len(y)))
        return self._between(x, y)

    # torchmetrics merges each state on its own, but samples go with their keys.

    def _reduce_states(self, incoming_state):
        merged = []
        for kind in KINDS:
            states = [f"{kind}_{part}" for part in self.parts]
            missing = [state for state in states if state not in incoming_state]
            condition = "be the state of such a metric"
            got = f"one without {', '.join(missing)}"
            _check.require(not missing, type(self).__name__, "incoming_state", condition, got)
            merged.append(self._merged(kind, self._held(kind), [incoming_state[s] for s in states]))
        for kind, held in zip(KINDS, merged, strict=True):
            self._hold(kind, held)

    def _merged(self, kind, ours, theirs):
        theirs = tuple(its.to(own) for own, its in zip(ours, theirs, strict=True))
        (our_keys, x, n), (their_keys, y, m) = ours, theirs
        name, whole = type(self).__name__, len(y) >= min(m.item(), self.capacity)
        condition = f"have held up to {self.capacity} samples of a kind, as this metric"
        _check.require(whole, name, "incoming_state", condition, f"{len(y)} of {m}")
        # Where nothing was left out keys have decided nothing. New ones are those of samples that
        # come after all of the other metric, whose seed may be the same.
        if len(y) == m:
            their_keys = self._new_keys(kind, n, len(y))
        elif len(x) == n:
            our_keys = self._new_keys(kind, m, len(x))
        joined = torch.cat([our_keys, their_keys])
        condition = "be of another seed or rank where both have left out samples"
        _check.require(_distinct(joined), name, "incoming_state", condition, "equal keys")
        return *self._smallest(joined, torch.cat([x, y])), n + m

    def _sync_dist(self, dist_sync_fn=gather_all_tensors, process_group=None):
        group = process_group or self.process_group

        def gathered(tensor):
            return torch.cat(dist_sync_fn(tensor, group=group))

        everywhere = [gathered(self._held(kind)[0]) for kind in KINDS]
        # All ranks know all keys and raise together, before any holds more than its own.
        ok, condition = all(map(_distinct, everywhere)), "differ between ranks"
        got = "equal keys: is one checkpoint loaded on several?"
        _check.require(ok, type(self).__name__, "samples", condition, got)
        for kind, all_keys in zip(KINDS, everywhere, strict=True):
            keys, samples, count = self._held(kind)
            # Keys first: then each rank sends those of its samples only that will be held.
            bound = _largest_held(all_keys, self.capacity)
            chosen = all_keys[all_keys <= bound], gathered(samples[keys <= bound])
            self._hold(kind, (*chosen, gathered(count[None]).sum()))


def _rank():
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if there else 0


def _distinct(keys):
    return len(keys.unique()) == len(keys)


def _largest_held(keys, capacity):
    """The ``capacity``-th smallest key, or the largest of fewer: (1,), of none (0,)."""
    return keys.sort().values[:capacity][-1:]


@functools.cache
def _start(*parts):
    """Where a stream starts among the 64-bit integers."""
    key = torch.zeros((), dtype=torch.int64, device="cpu")
    for part in parts:
        key = _mixed(key + part)
    return key.item()


def _mixed(key):
    """A permutation of the 64-bit integers whose values at 0, 1, ... pass for random numbers.

    SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"). So the
    key of a sample follows from its number alone: there is no generator to save with the states.
    """
    key = (key + 1) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # torch shifts the sign in, and unsigned 64-bit integers have no product there.
        key = (key ^ ((key >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return key


def _signed(word):
    return word - 2**64 if word >= 2**63 else word

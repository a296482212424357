"""Gaussians to compare: moments of every condition, rank and scale, and clouds."""

import numpy as np

from .inputs import pairs

__all__ = ["cloud", "clouds", "fitted", "gaussians", "matrix", "moments", "variances"]

# Draws for each feature behind a well-conditioned covariance.
DRAWS = 4


def gaussians(case, rng):
    """Means (..., N) and covariances (..., N, N) of x and y; N is the number of features.

    Words of the kind: ``condition`` K (eigenvalues from 1 down to 1/K, evenly in logarithms),
    ``commuting`` and ``equal`` pairs, ``rank`` R of both and ``onto`` R of y alone (integers, so
    exactly of that rank), ``repeated`` eigenvalues, ``scale`` F of deviations, ``apart`` F of x's.
    """
    words = case.kind.split()
    d, batch = case.n, case.batch
    m = case.batch if case.m is None else (case.m,)
    arrays = {
        "mean_x": rng.standard_normal((*batch, d)),
        "cov_x": _covariance(words, rng, (*batch, d, d)),
        "mean_y": rng.standard_normal((*m, d)),
        "cov_y": _covariance(words, rng, (*m, d, d)),
    }
    if "commuting" in words:
        arrays["cov_y"] = _commuting(arrays["cov_x"], rng)
    if "onto" in words:
        arrays["cov_y"] = _of_rank(int(_after("onto", words)), rng, (*m, d, d))
    if "equal" in words:
        arrays |= {"mean_y": arrays["mean_x"], "cov_y": arrays["cov_x"]}
    for word, names in (("scale", "xy"), ("apart", "x")):
        factor = _after(word, words)
        arrays |= {f"mean_{name}": factor * arrays[f"mean_{name}"] for name in names}
        arrays |= {f"cov_{name}": factor**2 * arrays[f"cov_{name}"] for name in names}
    return arrays


def variances(case, rng):
    """Means and variances (..., N) of x and y; of "rank" some are 0, in x, in y and in both."""
    arrays = {name: rng.standard_normal((*case.batch, case.n)) for name in ("mean_x", "mean_y")}
    for name in ("cov_x", "cov_y"):
        arrays[name] = rng.uniform(0.1, 3.0, (*case.batch, case.n))
    if "zeros" in case.kind:
        arrays["cov_x"][..., :2] = arrays["cov_y"][..., 1:3] = 0.0
    if "equal" in case.kind:
        arrays |= {"mean_y": arrays["mean_x"], "cov_y": arrays["cov_x"]}
    return arrays


def matrix(case, rng):
    """One covariance and a matrix to take the sum of its root with."""
    cov = gaussians(case, rng)["cov_x"]
    return {"cov_x": cov, "cotangent": rng.standard_normal(cov.shape)}


def fitted(case, rng):
    """Gaussians and a matrix for the map between them, its last row for the translation."""
    shape = (*case.batch, case.n + 1, case.n)
    return gaussians(case, rng) | {"cotangent": rng.standard_normal(shape)}


def clouds(case, rng):
    """Clouds x (..., N, D) and y (..., M, D).

    Words beside those of :func:`pairs`: ``condition`` K of both covariances, a ``constant``
    feature, one that is there ``twice``, ``scale`` F, ``long`` clouds of more points than features.
    """
    arrays = pairs(case, rng)
    words = case.kind.split()
    if "long" in words:
        for name in {"x_lengths", "y_lengths"} & set(arrays):
            arrays[name] = np.maximum(arrays[name], case.d + 2)
    condition = _after("condition", words)
    for name in "xy":
        if condition > 1:
            basis = np.linalg.qr(rng.standard_normal((case.d, case.d))).Q
            spread = np.logspace(0, -np.log10(condition) / 2, case.d)
            arrays[name] = arrays[name] @ (spread[:, None] * basis)
        if "constant" in words:
            arrays[name][..., 0] = 0.5
        if "twice" in words:
            arrays[name][..., 1] = arrays[name][..., 0]
        arrays[name] = _after("scale", words) * arrays[name]
    return arrays


def cloud(case, rng):
    """X alone, with what belongs to it."""
    mine = {"x", "a", "x_lengths"}
    return {name: array for name, array in clouds(case, rng).items() if name in mine}


def moments(case, rng):
    """X, its weights by their own name, and a matrix for its covariance and its mean."""
    arrays = cloud(case, rng)
    names = {"a": "weights", "x_lengths": "lengths"}
    arrays = {names.get(name, name): array for name, array in arrays.items()}
    return arrays | {"cotangent": rng.standard_normal((*case.batch, case.d + 1, case.d))}


def _after(word, words):
    """The number that follows a word, 1 without it."""
    return float(words[words.index(word) + 1]) if word in words else 1.0


def _covariance(words, rng, shape):
    d = shape[-1]
    if "rank" in words:
        return _of_rank(int(_after("rank", words)), rng, shape)
    if "repeated" in words:
        values = np.repeat([1.0, 0.25], [d - d // 2, d // 2])
        return _in_basis(_basis(rng, shape), values)
    if "condition" in words:
        values = np.logspace(0, -np.log10(_after("condition", words)), d)
        return _in_basis(_basis(rng, shape), values)
    draws = rng.standard_normal((*shape[:-1], DRAWS * d))
    return draws @ draws.swapaxes(-1, -2) / (DRAWS * d)


def _commuting(cov, rng):
    """The eigenvalues of each matrix in another order."""
    values, vectors = np.linalg.eigh(cov)
    return _in_basis(vectors, rng.permutation(values, axis=-1))


def _basis(rng, shape):
    return np.linalg.qr(rng.standard_normal(shape)).Q


def _in_basis(basis, values):
    return (basis * values[..., None, :]) @ basis.swapaxes(-1, -2)


def _of_rank(rank, rng, shape):
    factor = rng.integers(-1, 2, (*shape[:-1], rank)).astype(float)
    # Ones where no two columns agree, so that none of them depends on the others.
    factor[..., :rank, :] += 3 * np.eye(rank) - factor[..., :rank, :]
    return factor @ factor.swapaxes(-1, -2)

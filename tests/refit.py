"""The slow way: a ridge fitted anew for every set of rows that is left out."""

import numpy as np

from warmstart.solve.kernels import mixed_kernels


def ridge(kernel, targets, penalty, learn, rest):
    """Scores of `rest` from a ridge with an intercept on `learn`, by its normal equations."""
    n = len(learn)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = kernel[np.ix_(learn, learn)] + penalty * np.eye(n)
    system[n, n] = 0.0
    right = np.vstack([targets[learn], np.zeros((1, targets.shape[1]))])
    solved = np.linalg.solve(system, right)
    return kernel[np.ix_(rest, learn)] @ solved[:n] + solved[n]


def left_out(kernel, targets, penalty, group_rows):
    """Scores of every row from all rows outside its group."""
    scores = np.empty(targets.shape)
    rows = np.arange(len(targets))
    for group in group_rows:
        scores[group] = ridge(kernel, targets, penalty, np.setdiff1d(rows, group), group)
    return scores


def kernel_of(features):
    """The kernel of one tap, on the scale that every tap has."""
    return mixed_kernels([("a", np.float32(features))], {"k": {"a": 1.0}})["k"]


def singles(n):
    """Every row a block of its own."""
    return [np.array([i]) for i in range(n)]


def told_apart(rng, n, k, strength, width=8):
    """Features whose first k columns tell the class by `strength`, and the labels."""
    labels = rng.permutation(np.arange(n) % k)
    features = rng.normal(size=(n, width))
    features[:, :k] += strength * np.eye(k)[labels]
    return features, labels

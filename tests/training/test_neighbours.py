import numpy as np

from warmstart.records import Tap
from warmstart.training.neighbours import fit_neighbours, squared_distances

TAPS = (Tap(part=1, pool="avg"), Tap(part=2, pool="neck"))


def make(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return {TAPS[0]: rng.normal(size=(n, 300)), TAPS[1]: rng.normal(size=(n, 90)) * 50}


def as32(features):
    return {tap: x.astype(np.float32) for tap, x in features.items()}


def join(features):
    return np.concatenate([features[tap] for tap in TAPS], axis=1)


def singles(n):
    return [np.array([i]) for i in range(n)]


def test_new_examples_of_the_same_kind_are_known_and_others_are_not():
    train, same = as32(make()), as32(make(seed=1))
    neighbours, limit, k = fit_neighbours(train.__getitem__, TAPS, singles(200), seed=0)
    known, _ = neighbours.nearest(join(same), k)
    assert (known > limit).mean() < 0.1
    far, _ = neighbours.nearest(join(same) * 4, k)
    assert (far > limit).all()


def test_an_example_is_its_own_nearest_neighbour():
    train = as32(make())
    neighbours, _, _ = fit_neighbours(train.__getitem__, TAPS, singles(200), seed=0)
    _, rows = neighbours.nearest(join(train)[:9], 3)
    assert rows[:, 0].tolist() == list(range(9))


def test_copies_do_not_shrink_what_counts_as_known():
    once = make(n=60)
    copies = as32({tap: np.repeat(x, 4, axis=0) for tap, x in once.items()})
    blocks = [np.arange(4 * i, 4 * i + 4) for i in range(60)]
    _, blocked, _ = fit_neighbours(copies.__getitem__, TAPS, blocks, seed=0)
    _, naive, _ = fit_neighbours(copies.__getitem__, TAPS, singles(240), seed=0)
    assert blocked > 1.05 * naive


def test_distances_equal_the_plain_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7)).astype(np.float32)
    slow = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(a, b), slow, rtol=1e-5)

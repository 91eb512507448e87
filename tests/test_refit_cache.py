"""What is kept while labels are corrected: the same, and never more than asked."""

from __future__ import annotations

import numpy as np
import pytest

from plans import typed_request
from tiny import CONVNEXT, weights
from warmstart.refit_cache import RefitCache, use_refit_cache
from warmstart.solve import ridge


@pytest.fixture
def kernel():
    half = np.random.default_rng(0).normal(size=(12, 20))
    return half @ half.T


def test_what_is_cached_is_what_would_be_made(kernel):
    plain = [ridge.inverse(kernel, penalty) for penalty in (0.1, 1.0)]
    with use_refit_cache(RefitCache(10**6)):
        for _ in range(2):
            for penalty, expected in zip((0.1, 1.0), plain, strict=True):
                np.testing.assert_array_equal(ridge.inverse(kernel, penalty), expected)
        other = kernel.copy()
        other[0, 0] += 1e-12
        assert ridge.inverse(other, 0.1) is not ridge.inverse(kernel, 0.1)
        assert ridge.inverse(kernel.copy(), 0.1) is ridge.inverse(kernel, 0.1)
    assert ridge.inverse(kernel, 0.1) is not ridge.inverse(kernel, 0.1)


def test_it_cannot_be_written_to(kernel):
    with use_refit_cache(RefitCache(10**6)):
        result = ridge.inverse(kernel, 1.0)
        with pytest.raises(ValueError, match="read-only"):
            result[0, 0] = 1.0


def test_the_oldest_go_first(kernel):
    kept, size = RefitCache(2 * kernel.nbytes), kernel.nbytes
    with use_refit_cache(kept):
        first = ridge.inverse(kernel, 0.1)
        ridge.inverse(kernel, 1.0)
        assert ridge.inverse(kernel, 0.1) is first
        ridge.inverse(kernel, 10.0)  # 1.0 goes, which was used before 0.1
        assert ridge.inverse(kernel, 0.1) is first
        assert kept.n_bytes <= 2 * size


def test_runs_on_what_is_cached_are_those_of_a_new_process(tmp_path, pictures):
    """The network that earlier runs have used, tuned copies among them, is as it came."""
    from warmstart.events import drain
    from warmstart.run.fit import fit

    def run(name, **options):
        out = tmp_path / name
        base = str(weights(tmp_path, CONVNEXT))
        drain(fit(typed_request(data=pictures, out=out, base=base, arch=CONVNEXT, **options)))
        return {
            file.name: file.read_bytes()
            for file in sorted((out / "model").iterdir())
            if file.name != "config.json"
        }

    small = ("input.size=32", "training.engine=torch")
    quick = {"budget": "fast", "settings": small}
    deep = {"strategy": "last:1", "settings": (*small, "training.epochs=1.7778")}
    plain = [run("a", **quick), run("b", **deep)]
    with use_refit_cache(RefitCache(10**9)):
        first = [run("c", **quick), run("d", **deep)]
        again = [run("e", **quick), run("f", **deep)]
    assert first == plain
    assert again == plain

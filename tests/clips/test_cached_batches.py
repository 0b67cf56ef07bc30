"""The processes of a run agree on whether the latent cache must be filled: filling it has collective operations."""

from types import SimpleNamespace

import pytest

from svdjax.parallel import cluster
from svdjax.presets import TINY
from train.batches import cached_batches
from train.batches.latent_cache import LatentCache


class Filling(Exception):
    """Raised where the cache would be filled."""


@pytest.mark.parametrize("seen", [[True, False], [False, True]])
def test_a_cache_that_one_process_misses_is_filled_by_all(monkeypatch, tmp_path, seen):
    def fill(*args):
        raise Filling

    monkeypatch.setattr(LatentCache, "is_complete", lambda self, source: seen[0])
    monkeypatch.setattr(cluster, "gather_json", lambda own: [own, seen[1]])
    monkeypatch.setattr(cached_batches, "frame_encoder", fill)
    info = SimpleNamespace(sources={}, config=TINY, dtype="float32")
    setup = SimpleNamespace(data=None, dtype="float32", batch_size=1)
    batches = cached_batches.cached_batches(tmp_path, info, (None, None), setup, SimpleNamespace(sources=[None]), [0], 0)
    with pytest.raises(Filling), batches:
        pass

"""`svdjax.load` and `interpolate` in several connected processes."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from hosts import free_address, start, write_keyframes

PROGRAM = textwrap.dedent(
    """
    import sys
    import jax
    import numpy as np
    import svdjax
    from svdjax.parallel import cluster
    from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh

    model, *keyframes = sys.argv[1:4]
    if len(sys.argv) > 4:
        cluster.start(sys.argv[4], 2, int(sys.argv[5]))
        mesh = make_mesh("guidance=2,columns=2", axes=SAMPLING_AXES)
    else:
        mesh = None
    loaded = svdjax.load(model, mesh=mesh)
    frames = svdjax.interpolate(loaded, *keyframes, steps=2)
    own = svdjax.load(model, mesh={"guidance": jax.local_device_count()})  # a mesh of this process alone
    copied = svdjax.interpolate(own, *keyframes, steps=2, mesh=mesh)
    clip = svdjax.animate(loaded, keyframes[0], steps=2)
    np.savez("frames.npz", frames=frames, local=svdjax.interpolate(own, *keyframes, steps=2), copied=copied, clip=clip)
    """
)


@pytest.mark.heavy
def test_frames_of_one_device(model, tmp_path):
    """Every process gets the frames of one device, for a mesh of all devices, and for one of its own."""
    words, address = ["-c", PROGRAM, str(model), *write_keyframes(tmp_path)[:2]], free_address()
    processes = [start(tmp_path / k, [*words, address, k], 2) for k in "01"]
    assert [process.wait(600) for process in processes] == [0, 0], (tmp_path / "0" / "err").read_text()
    assert start(tmp_path / "alone", words, 1).wait(600) == 0
    expected = np.load(tmp_path / "alone" / "frames.npz")
    for k in "01":
        found = np.load(tmp_path / k / "frames.npz")
        for name in ("frames", "local", "copied", "clip"):
            assert np.abs(found[name].astype(int) - expected[name]).max() <= 1, (k, name)

"""Whether XLA's GPU compiler is installed."""

from sample.planning import compiling
from sample.planning.targets import CARDS
from svdjax.errors import InputError


def has_gpu_compiler() -> bool:
    """Whether the extra is installed; checked at collection, because JAX must not have searched for a GPU before."""
    try:
        compiling.devices_of(CARDS["h100"])
    except InputError:
        return False
    return True

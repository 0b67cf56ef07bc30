"""Functions that tests run in worker processes, which can import this module but not the modules of tests."""

import os
import signal
import time

from svdjax.data.motion import measure_source


def number_and_process(i):
    time.sleep(0.1)
    return i, os.getpid()


def fail(error):
    raise error


def die_on_b(candidate, *args):
    """Like `measure_source` with a decoder that crashes on one damaged file."""
    if candidate.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return measure_source(candidate, *args)


def fail_on_b(candidate, *args):
    """Like `measure_source` with an error in the program for one file."""
    if candidate.name == "b.gif":
        b"\xe9".decode()
    return measure_source(candidate, *args)

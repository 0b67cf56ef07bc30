"""Being asked to stop: SIGTERM, as schedulers send it, and Ctrl-C end training after the step at hand, saved."""

from __future__ import annotations

import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """Listens while it is entered.

    In a run of several processes JAX's own preemption service listens for SIGTERM, and agrees with the other processes on
    the step that is the last for all.

    Attributes:
        signal: which one was received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After Ctrl-C nothing else is to come that a script does next, so the exit status tells of it (unlike SIGTERM's).
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.signal == signal.SIGINT:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        again = "; Ctrl-C again: at once, without saving" if number == signal.SIGINT else ""
        print(f"\nstopping after this step, which will be saved{again}", file=sys.stderr, flush=True)

    def requested(self, step: int) -> bool:
        """Whether `step` is to be the last. To be asked once after every step, by all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

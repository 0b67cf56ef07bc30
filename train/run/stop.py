"""Stop a run with SIGTERM (from a scheduler) or Ctrl-C: the current step is finished and saved."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """A context manager that catches SIGTERM and Ctrl-C.

    In a run of several processes, JAX's preemption service catches SIGTERM instead, and all processes agree on the last step.
    Ctrl-C in one of them becomes SIGTERM.

    Attributes:
        signal: the signal that was received, or None. In a run of several processes it is set after the last step.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupted = False
        self._old_handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,):
            self._old_handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        # Ctrl-C should stop the calling script too, so it sets the exit status; SIGTERM does not.
        if kind is None and self.signal == signal.SIGINT:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: Any) -> None:
        if (self.signal is not None or self._interrupted) and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = number == signal.SIGINT
        if jax.process_count() == 1:
            self.signal = number
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        again = "; Ctrl-C again stops at once, without saving" if number == signal.SIGINT else ""
        print(f"\nstopping after this step, which will be saved{again}", file=sys.stderr, flush=True)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`. All processes must call it exactly once after every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGINT if self._interrupted else signal.SIGTERM
        return self.signal is not None

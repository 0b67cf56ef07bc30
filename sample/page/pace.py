"""What a video takes: UNet evaluations, and seconds, from the jobs that were made."""

from __future__ import annotations

from svdjax.config import SVDConfig
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import Settings


class Pace:
    """Seconds per clip that the UNet predicts, by size and number of frames."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int, int], float] = {}

    def record(self, config: SVDConfig, shape: tuple[int, ...], method: str, settings: Settings, seconds: float) -> None:
        """Remember the time of a job.

        Args:
            config: of the model.
            shape: (H, W, 3) of the video.
            method: of the job.
            settings: of the job.
            seconds: per UNet evaluation.
        """
        key = shape[0], shape[1], settings.num_frames
        self._seconds.pop(key, None)  # the latest is last
        self._seconds[key] = seconds / _clips(config, method, settings)

    def seconds(self, config: SVDConfig, shape: tuple[int, ...], method: str, settings: Settings) -> float | None:
        """Seconds of an evaluation; None if nothing was timed.

        For a size that wasn't timed, those of the latest job, in proportion to the pixels of a clip.
        """
        if not self._seconds:
            return None
        key = shape[0], shape[1], settings.num_frames
        (height, width, frames), seconds = next(reversed(self._seconds.items()))
        scaled = seconds * (key[0] * key[1] * key[2]) / (height * width * frames)
        return self._seconds.get(key, scaled) * _clips(config, method, settings)


def _clips(config: SVDConfig, method: str, settings: Settings) -> float:
    """Clips that the UNet predicts in an evaluation, on average."""
    run = run_of(method, settings, config.scheduler)
    return run.passes / run.evaluations

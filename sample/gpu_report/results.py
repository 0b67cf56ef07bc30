"""What a report has measured, as in `report.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class PartResult:
    """One part.

    Attributes:
        title: for the user.
        status: `done`; `skipped`, `failed` or `ended` (at its limit), with the reason in `notes`; `running`; `stopped` by an
            interrupt. All but skipped parts may have results.
        expected_seconds, seconds: expected and measured duration.
        notes: what is worth a line, such as an error.
        results: values by key.
    """

    title: str
    status: str = "running"
    expected_seconds: float = 0.0
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Results:
    """A report: device, versions, model and clip, and the parts by name."""

    setup: dict[str, Any]
    parts: dict[str, PartResult] = field(default_factory=dict)

    def of(self, part: str) -> dict[str, Any]:
        """The values of a part; empty if there are none."""
        return self.parts[part].results if part in self.parts else {}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

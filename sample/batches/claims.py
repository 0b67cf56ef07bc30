"""Work shared by several processes: each takes the next unit that is neither done nor claimed by another process.

A unit is a file or folder to make. Its claim is a small file beside it, created exclusively, so that one process alone gets it.
The owner rewrites it every few seconds. A claim that stops changing is that of a dead process; then one of the others creates
the claim of the next generation, again exclusively. Processes need a shared folder, but no connection and no common clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BEAT = 10.0  # seconds between the signs of life of an owner
SILENCE = 120.0  # seconds without one after which a claim is taken over; clients of NFS see changes late
POLL = 2.0  # seconds between looks at the units of others, when there is nothing else to do


@dataclass
class _Sight:
    """What this process has seen of another one's claim: its first content, its last content, and since when."""

    first: str
    last: str
    since: float


@dataclass
class Claims:
    """The units that this process works on.

    Attributes:
        shared: whether other processes work on the same units. If not, no file is written.
        identity: this process, stored in its claims for people who look into them.
    """

    shared: bool
    identity: str = ""
    _seen: dict[Path, _Sight] = field(default_factory=dict)

    def take(
        self,
        targets: Sequence[Path],
        done: Callable[[Path], bool],
        *,
        together: int = 1,
        kind: Callable[[Path], Hashable] = lambda target: None,
        leave_to_others: bool = False,
    ) -> contextlib.closing[Generator[list[Path]]]:
        """A context with the units to make, in groups; a group is this process's until the next one is requested.

        The iterator waits at the end until the others have made theirs, or takes them over.

        Args:
            targets: files or folders to make, in the order to take them; their parent folders exist.
            done: whether a unit is there.
            together: most units of a group.
            kind: units of one group are of one kind.
            leave_to_others: don't wait for units that a living process works on.
        """
        groups = self._groups(targets, done, together, kind, leave_to_others)
        return contextlib.closing(groups)  # after an error, it gives the claims back

    def _groups(
        self,
        targets: Sequence[Path],
        done: Callable[[Path], bool],
        together: int,
        kind: Callable[[Path], Hashable],
        leave_to_others: bool,
    ) -> Generator[list[Path]]:
        remaining = list(targets)
        while remaining:
            others, group = list[Path](), list[Path]()
            with contextlib.ExitStack() as claims:
                for target in remaining:
                    if done(target) or self.failure(target) is not None:
                        continue
                    if group and kind(target) != kind(group[0]):
                        yield group
                        claims.close()
                        group = []
                    if self.shared:
                        claim = self._claim(target)
                        if claim is None:
                            others.append(target)
                            continue
                        claims.enter_context(_kept(claim, self.identity))
                        if done(target):  # it was finished, and its claim removed, just before this claim
                            continue
                    group.append(target)
                    if len(group) == together:
                        yield group
                        claims.close()
                        group = []
                if group:
                    yield group
            remaining = [target for target in others if not (leave_to_others and self._lives(target))]
            if remaining:
                time.sleep(POLL)

    def fail(self, target: Path, message: str) -> None:
        """Record that a unit can't be made, so that no other process of this run tries it."""
        if self.shared:
            _beside(target, "failed").write_text(message)

    def failure(self, target: Path) -> str | None:
        """The message of `fail`, if there is one."""
        if not self.shared:
            return None
        try:
            return _beside(target, "failed").read_text()
        except OSError:
            return None

    def forget_failures(self, targets: Sequence[Path]) -> None:
        """Try the failed units of an earlier run again."""
        if self.shared:
            present = {file for folder in {target.parent for target in targets} for file in folder.glob(".svdjax-*.failed")}
            for target in targets:
                if (file := _beside(target, "failed")) in present:
                    file.unlink(missing_ok=True)

    def _claim(self, target: Path) -> Path | None:
        """The new claim of a unit; None if another process has it."""
        claim = _beside(target, "claim-0")
        if _created(claim, self.identity):
            return claim
        claim, seen = self._look(target)
        if time.monotonic() - seen.since < SILENCE or not seen.last:
            return None
        claim = claim.with_suffix(f".claim-{_generation(claim) + 1}")
        return claim if _created(claim, self.identity) else None

    def _look(self, target: Path) -> tuple[Path, _Sight]:
        """The newest claim of a unit, and what this process has seen of it."""
        claim = _beside(target, "claim-0")
        for generation in itertools.count(1):
            if not (newer := _beside(target, f"claim-{generation}")).exists():
                break
            claim = newer
        try:
            text = f"{claim.name} {claim.read_text()}"  # opening it makes a client of NFS ask the server
        except OSError:
            text = ""  # removed in this moment
        seen = self._seen.setdefault(target, _Sight(text, text, time.monotonic()))
        if seen.last != text:
            seen.last, seen.since = text, time.monotonic()
        return claim, seen

    def _lives(self, target: Path) -> bool:
        """Whether the owner of a claim has given a sign of life since this process first saw the claim."""
        seen = self._look(target)[1]
        return seen.last != seen.first


def _beside(target: Path, ending: str) -> Path:
    """A hidden file beside a target; its name is short, whatever the target's is."""
    return target.with_name(f".svdjax-{hashlib.sha256(target.name.encode(errors='replace')).hexdigest()[:16]}.{ending}")


def _generation(claim: Path) -> int:
    return int(claim.suffix.rpartition("-")[2])


def _created(claim: Path, identity: str) -> bool:
    """Create a claim; whether it was new."""
    try:
        with claim.open("x") as file:
            file.write(f"{identity}: 0")
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _kept(claim: Path, identity: str) -> Iterator[None]:
    """Give signs of life during the block; remove the claim, and those of dead owners before it, at the end."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if ended.wait(BEAT):
                return
            with contextlib.suppress(OSError), claim.open("r+") as file:  # not created again if another process removed it
                file.write(f"{identity}: {count}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        generation = _generation(claim)
        if not claim.with_suffix(f".claim-{generation + 1}").exists():  # otherwise it was taken over: the new owner's
            for k in range(generation + 1):
                claim.with_suffix(f".claim-{k}").unlink(missing_ok=True)

"""Claims: no unit is made twice, those of a dead process are taken over, and those of a living one are not."""

from __future__ import annotations

import threading
import time

import pytest

from sample.batches import claims
from sample.batches.claims import Claims


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "SILENCE", 0.5)
    monkeypatch.setattr(claims, "POLL", 0.01)


def targets_in(folder, count=20):
    return [folder / f"{k:04d}.mp4" for k in range(count)]


def work(targets, made, seconds=0.0, identity="a", **options):
    """Make the units that one process takes."""
    with Claims(True, identity).take(targets, lambda target: target.exists(), **options) as units:
        for (target,) in units:
            time.sleep(seconds)
            made.append((identity, target))
            target.write_text(identity)


def test_several_processes_make_every_unit_once(tmp_path):
    targets, made = targets_in(tmp_path, 40), []
    threads = [threading.Thread(target=work, args=(targets, made, 0.002, name)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(target for _, target in made) == targets
    assert len({name for name, _ in made}) > 1
    assert sorted(tmp_path.iterdir()) == targets  # no claim is left


def test_a_dead_process_loses_its_unit_alone_and_a_living_one_keeps_it(tmp_path):
    """`dead` was killed: its claim is there and doesn't change. `slow` works longer than the silence that ends a claim."""
    targets, made = targets_in(tmp_path, 4), []
    assert claims._created(claims._beside(targets[0], "claim-0"), "dead")
    slow = threading.Thread(target=work, args=(targets[1:2], made, 1.2, "slow"))
    slow.start()
    while not claims._beside(targets[1], "claim-0").exists():
        time.sleep(0.01)
    others = [threading.Thread(target=work, args=(targets, made, 0, name)) for name in "ab"]
    for thread in others:
        thread.start()
    for thread in (slow, *others):
        thread.join()
    assert sorted(target for _, target in made) == targets
    assert ("slow", targets[1]) in made
    assert sorted(tmp_path.iterdir()) == targets


def test_the_claim_is_given_back_after_an_error(tmp_path):
    (target,) = targets_in(tmp_path, 1)

    def interrupted():
        with Claims(True).take([target], lambda target: False) as units:
            for (_,) in units:
                assert len(list(tmp_path.iterdir())) == 1
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_unit_can_be_left_to_a_living_process_but_not_to_a_dead_one(tmp_path):
    one, two = targets_in(tmp_path, 2)
    made = []
    living = threading.Thread(target=work, args=([one], made, 1.0, "living"))
    living.start()
    while not claims._beside(one, "claim-0").exists():
        time.sleep(0.01)
    claims._created(claims._beside(two, "claim-0"), "dead")
    started = time.monotonic()
    work([one], made, identity="a", leave_to_others=True)
    assert time.monotonic() - started < 0.5
    assert not made
    work([two], made, identity="a", leave_to_others=True)
    assert made == [("a", two)]
    living.join()


def test_a_failed_unit_is_not_tried_by_others_until_the_next_run(tmp_path):
    targets, made = targets_in(tmp_path, 2), []
    mine = Claims(True)
    with mine.take(targets, lambda target: target.exists()) as units:
        for (target,) in units:
            mine.fail(target, f"no {target.name}")
    other = Claims(True)
    assert [other.failure(target) for target in targets] == ["no 0000.mp4", "no 0001.mp4"]
    work(targets, made)
    assert not made
    other.forget_failures(targets[1:])
    work(targets, made)
    assert [target for _, target in made] == targets[1:]


def test_a_process_alone_writes_no_files(tmp_path):
    targets = targets_in(tmp_path, 3)
    alone = Claims(False)
    with alone.take(targets, lambda target: target == targets[1]) as units:
        found = []
        for (target,) in units:
            alone.fail(target, "x")
            found.append(target)
    assert found == [targets[0], targets[2]]
    assert alone.failure(targets[0]) is None
    assert not list(tmp_path.iterdir())


def test_groups_are_of_one_kind_and_no_unit_is_in_two(tmp_path):
    """Alone, and with another process that has a unit: it is left out of the group, and made when it is free."""
    targets = targets_in(tmp_path, 7)
    kinds = dict(zip(targets, "aaabbaa", strict=True))

    def groups(shared):
        with Claims(shared).take(targets, lambda target: target.exists(), together=2, kind=kinds.__getitem__) as found:
            for group in found:
                yield [targets.index(target) for target in group]
                for target in group:
                    target.write_text("")

    assert list(groups(shared=False)) == [[0, 1], [2], [3, 4], [5, 6]]
    for target in targets:
        target.unlink()
    assert claims._created(claims._beside(targets[1], "claim-0"), "dead")
    assert list(groups(shared=True)) == [[0, 2], [3, 4], [5, 6], [1]]
    assert sorted(tmp_path.iterdir()) == targets


def test_a_unit_that_was_finished_just_before_its_claim_is_not_made_again(tmp_path):
    answers = iter([False, True])
    with Claims(True).take(targets_in(tmp_path, 1), lambda target: next(answers)) as found:
        assert not list(found)
    assert not list(tmp_path.iterdir())

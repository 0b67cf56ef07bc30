"""Damaged files and odd command lines, drawn at random from a seed: a correct result or one line of error, nothing else.

The short form runs with all other tests. The long form takes ten minutes:

    SVDJAX_FUZZ_SEED=1 SVDJAX_FUZZ_MINUTES=10 pytest -m heavy -n 0 -s tests/fuzz

A failure shows the smallest damage that Hypothesis found; the same seed draws the same damages again.
"""

from __future__ import annotations

import fuzz_commands
import fuzz_media
import fuzz_models
import fuzzing
import pytest
import svd_folders

pytestmark = pytest.mark.usefixtures("quick_shapes", "save_as_npz")


@pytest.fixture
def subjects(tmp_path, source, monkeypatch):
    """All subjects by name, with folders of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # conversions are not complete here
    monkeypatch.setattr("train.backward.abstract", svd_folders.cached_abstract)
    made = {}
    for module, others in ((fuzz_media, ()), (fuzz_models, (source,)), (fuzz_commands, ())):
        folder = tmp_path / module.__name__
        folder.mkdir()
        made |= module.subjects(folder, *others)
    return made


FOUND = {  # command lines that have failed before
    "sample.animate": ["first.png", "last.png", "-o", "clips", "--clips-per-image", "2147483647"],
}


@pytest.mark.parametrize("name", FOUND)
def test_found_before(tmp_path, name):
    fuzz_commands.make_files(tmp_path)
    with fuzzing.limited():
        fuzz_commands.call(name, tmp_path, FOUND[name])


def test_a_few_damages(subjects):
    """Each subject once, in its short form."""
    print(f"seed {fuzzing.SEED}")
    for name, subject in subjects.items():
        try:
            fuzzing.run(subject, subject.quick, fuzzing.SEED)
        except Exception as e:
            e.add_note(f"{name}: with SVDJAX_FUZZ_SEED={fuzzing.SEED}")
            raise


@pytest.mark.heavy
def test_many_damages(subjects):
    trials, failures = fuzzing.run_long(subjects, fuzzing.MINUTES, fuzzing.SEED)
    counts = ", ".join(f"{name} {count:,}" for name, count in trials.items())
    print(f"seed {fuzzing.SEED}: {sum(trials.values()):,} trials ({counts})")
    if failures:
        raise ExceptionGroup(f"with SVDJAX_FUZZ_SEED={fuzzing.SEED}: {', '.join(failures)}", list(failures.values()))

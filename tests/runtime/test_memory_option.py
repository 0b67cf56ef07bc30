"""`--memory` of the sampling commands: bad values give one line."""

import pytest

from sample import animate, evaluate, interpolate


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much", ""])
@pytest.mark.parametrize("command", [animate, evaluate, interpolate], ids=lambda module: module.__name__)
def test_not_a_number_of_gib(command, value, capsys):
    assert command.main(["--out", "new", f"--memory={value}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: argument --memory: is {value!r}, expected a number of GiB above 0")
    assert error.count("\n") == 1


def test_more_than_the_device_has(tmp_path, capsys):
    assert interpolate.main(["--demo", "--memory", "1e6", "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith("error: --memory is 1e+06, expected at most ")
    assert not list(tmp_path.iterdir())

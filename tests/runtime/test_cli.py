"""Commands end with an exit status and at most one line."""

import pytest

from svdjax.errors import InputError, one_line
from svdjax.runtime import cli


def parse(argv):
    parser = cli.Parser(prog="thing")
    parser.add_argument("--count", type=int, default=1)
    count = parser.parse_args(argv).count
    if count == 0:
        raise InputError("nothing\nto do")
    if count < 0:
        raise KeyboardInterrupt
    if count > 9:
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("argv", "status", "line"),
    [
        ([], 0, ""),
        (["--count", "0"], 2, "error: nothing to do\n"),
        (["--count", "x"], 2, "error: argument --count: invalid int value: 'x' (--help lists the options)\n"),
        (["--cou", "3"], 2, "error: unrecognized arguments: --cou 3 (--help lists the options)\n"),
        (["--count", "-1"], 130, "interrupted\n"),
    ],
)
def test_status_and_line(capsys, argv, status, line):
    assert cli.run(parse, argv) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/home/a\nb"), "error: /home/a b: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", b"caf\xe9"), "error: caf\\xe9: No such file or directory"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (OSError(9, "Bad file descriptor", 7), "error: file 7: Bad file descriptor"),
        (MemoryError("Unable to allocate 9 TiB"), "error: not enough memory on this host: Unable to allocate 9 TiB"),
        (MemoryError(), "error: not enough memory on this host"),
    ],
)
def test_errors_of_the_system(capsys, error, line):
    def command(argv):
        raise error

    assert cli.run(command, []) == 2
    assert capsys.readouterr() == ("", line + "\n")


def test_bugs_are_not_hidden():
    with pytest.raises(RuntimeError):
        cli.run(parse, ["--count", "10"])


def test_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line("a\nlong reason", 6) == "a long"


def test_one_line_is_printable():
    """File names can hold anything but a slash."""
    assert one_line("caf\udce9 \x1b[31mred\x07 \u202egnp.exe é 日本") == "caf\\xe9 \\x1b[31mred\\x07 \\u202egnp.exe é 日本"


def test_leave(monkeypatch):
    """Ctrl-C ends the process without waiting for its threads; other statuses end it as usual."""
    immediate = []
    monkeypatch.setattr("os._exit", immediate.append)
    for status in (0, 2, 130):
        with pytest.raises(SystemExit) as stop:
            cli.leave(status)
        assert stop.value.code == status
    assert immediate == [130]


def test_message_of_an_error_is_one_line():
    """Also for callers of the library, whatever the names in it are."""
    assert str(InputError("a\n/caf\udce9\x07.png: is missing")) == "a /caf\\xe9\\x07.png: is missing"

"""The exception for user errors, and a helper for its one-line message."""


class InputError(ValueError):
    """A user error: an input, such as a file or an option, that can't be used.

    The message is one line: the file or option, what was found, what was expected. Commands print it after `error: ` and exit
    with status 2; callers of the library catch it as a `ValueError`.
    """


def one_line(reason: object, longest: int | None = None) -> str:
    """Text of `reason`, such as another library's exception, on one line; only the first `longest` characters."""
    return " ".join(str(reason).split())[:longest]

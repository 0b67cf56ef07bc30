"""The one exception that a command turns into its single line of error."""


class InputError(ValueError):
    """Something the user gave can't be used.

    The message is one line that names the file or option, what was found and what was expected. Commands print it after
    `error: ` and exit with status 2; callers of the library catch it as a `ValueError`.
    """

"""The exception for user errors, and text for its one-line message."""


class InputError(ValueError):
    """A user error: an input, such as a file or an option, that can't be used.

    The message is one line: the file or option, what was found, what was expected. Commands print it after `error: ` and exit
    with status 2; callers of the library catch it as a `ValueError`. Names in it may hold anything: see `one_line`.
    """

    def __init__(self, message: object = ""):
        super().__init__(one_line(message))


def one_line(reason: object, longest: int | None = None) -> str:
    """Printable text of `reason`, such as a file name or another library's exception, on one line.

    Args:
        reason: anything. Bytes of a file name that aren't UTF-8, control characters, and characters that change the direction
            of text become backslash escapes, so that the text can be shown on every terminal and stored in every file.
        longest: cut the text after this number of characters.
    """
    text = " ".join(str(reason).split())
    return "".join(c if c.isprintable() else escape(c) for c in text)[:longest]


def encodable(text: str) -> str:
    """Text that UTF-8 can store: bytes of a file name that aren't UTF-8 become backslash escapes; the rest stays."""
    return "".join(escape(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def escape(character: str) -> str:
    """A character as a backslash escape, such as `\\xe9`."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python stores it in file names
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()

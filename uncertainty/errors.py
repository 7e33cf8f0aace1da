"""The one exception that a command turns into one clear line and exit code 2."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where, and the mend. Library callers catch it as a
    ``ValueError``; a command prints it after its own name and exits with code 2, without a traceback.
    """

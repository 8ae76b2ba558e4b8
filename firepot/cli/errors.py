"""The error of the command line."""


class UserError(Exception):
    """Something that the user can put right: shown as one line, without a traceback."""

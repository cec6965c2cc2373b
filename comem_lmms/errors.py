"""The one exception for what a user can put right."""


class UserError(ValueError):
    """Says in one line what is wrong, with which value, and what to do about it."""


def one_line(error: BaseException) -> str:
    """The message of somebody else's exception, short enough to quote."""
    return " ".join(str(error).split())[:200]

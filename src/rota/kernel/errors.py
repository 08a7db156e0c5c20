"""What can go wrong, and how it is said.

RotaError
 |-- InputError         the user's file, flag or number breaks a rule (exit code 2)
 |-- MissingExtraError  an optional dependency is not installed (exit code 2)
 |-- PolicyError        a policy answered with something that is not an answer
 |    `-- NotRevealed   a policy read a column that it did not declare or may not see
 |-- InfeasibleError    no schedule satisfies the constraints
 `-- BrokenRunError     a finished run or schedule fails its independent check

A message is one line: where, which rule, what was found, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RotaError(Exception):
    """Base of every error that rota raises on purpose."""


class InputError(RotaError, ValueError):
    """Input breaks a rule; the message is one line for the person who gave it."""


class MissingExtraError(RotaError, ImportError):
    """A feature needs an optional dependency: the message names the extra to install."""


class PolicyError(RotaError):
    """A policy's answer has the wrong shape, is not a number, or breaks its contract."""


class NotRevealed(PolicyError, AttributeError):
    """A policy read a column that it did not declare, or whose value nobody knows yet."""


class InfeasibleError(RotaError):
    """The problem has no feasible schedule."""


class BrokenRunError(RotaError):
    """A finished run fails its independent check: a bug, in rota or in a world's extension; its results are not to be used."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to an unknown one.

    Returns ``"; did you mean 'a' or 'b'?"`` when something is close, otherwise the whole list
    (``" (known: a, b, c)"``), so that the result can be appended to any message.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{each}'" for each in close) + "?"
    return f" (known: {', '.join(names)})" if names else ""

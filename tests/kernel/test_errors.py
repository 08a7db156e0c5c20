"""The exception tree and the words for unknown names."""

import pytest

from rota.kernel import errors
from rota.kernel.errors import nearest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("fcsf", ["sjf", "fcfs", "srpt"], "; did you mean 'fcfs'?"),
        ("zzz", ["b", "a"], " (known: a, b)"),
        ("zzz", [], ""),
    ],
)
def test_nearest_names(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known) == expected


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        ("InputError", (ValueError,)),
        ("MissingExtraError", (ImportError,)),
        ("PolicyError", ()),
        ("NotRevealed", (errors.PolicyError, AttributeError)),
        ("InfeasibleError", ()),
    ],
)
def test_every_error_is_ours_and_a_familiar_one(error: str, bases: tuple[type, ...]) -> None:
    assert issubclass(getattr(errors, error), (errors.RotaError,))
    assert all(issubclass(getattr(errors, error), base) for base in bases)

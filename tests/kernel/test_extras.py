"""An optional dependency that is not there is told in one line."""

import pytest

from rota.kernel.errors import MissingExtraError
from rota.kernel.extras import need


def test_what_is_there_is_no_trouble() -> None:
    need("route", "rota route", "json", "numpy")


def test_the_first_that_is_missing_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"^rota route needs no_such_module: pip install 'rota\[route\]'$"):
        need("route", "rota route", "json", "no_such_module", "nor_this")

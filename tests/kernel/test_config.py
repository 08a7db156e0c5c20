"""Settings are converted strictly, and a mistake is said in one line."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest

from rota.kernel.config import decode
from rota.kernel.errors import InputError


class Poisson(msgspec.Struct, forbid_unknown_fields=True):
    rate: Annotated[float, msgspec.Meta(gt=0)]


@dataclass
class Host:
    model: str
    count: int = 1


class Scenario(msgspec.Struct):
    name: str
    hosts: list[Host] = []
    arrivals: str | Poisson = "replay"
    named: dict[str, Host] = msgspec.field(default_factory=dict)


def test_converts_nested_settings() -> None:
    got = decode(Scenario, {"name": "a", "hosts": [{"model": "x", "count": 2}], "arrivals": {"rate": 6}}, "s.yaml")
    assert got.hosts == [Host("x", 2)]
    assert got.arrivals == Poisson(6.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nam": "a"}, "s.yaml: unknown key 'nam'; did you mean 'name'?"),
        (
            {"name": "a", "hosts": [{"model": "x", "cuont": 2}]},
            r"hosts\[0\]: unknown key 'cuont'; did you mean",
        ),
        ({"name": "a", "arrivals": {"rat": 6}}, "s.yaml.arrivals: unknown key 'rat'; did you mean 'rate'"),
        ({"name": "a", "named": {"left": {"modle": "x"}}}, "s.yaml.named.left: unknown key 'modle'"),
        ({}, "s.yaml: missing the key 'name'"),
        ({"name": 3}, "s.yaml.name: expected 'str', found 3"),
        ({"name": "a", "hosts": [{"model": "x", "count": "two"}]}, r"hosts\[0\].count: expected 'int', found 'two'"),
        ({"name": "a", "arrivals": {"rate": -1}}, "s.yaml.arrivals.rate: expected 'float' > 0.0, found -1"),
        ([1], "s.yaml: expected 'object', got 'array'"),
        (None, "s.yaml: expected 'object', found None"),
    ],
)
def test_mistakes_name_path_rule_and_value(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode(Scenario, data, "s.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_before_the_path() -> None:
    with pytest.raises(InputError, match=r"^a\.yaml: unknown key 'x'"):
        decode(Scenario, {"name": "a", "x": 1}, "a.yaml:")


def test_dataclasses_are_strict_too() -> None:
    with pytest.raises(InputError, match="did you mean 'count'"):
        decode(Host, {"model": "x", "counts": 1}, "host")

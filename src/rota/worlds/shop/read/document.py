"""Our own JSON: everything that the model can say, with names instead of numbers.

::

    {"format": "rota-shop", "name": "two jobs", "objective": "makespan + 2*total_tardiness",
     "resources": [{"name": "saw", "breaks": [[8, 16]], "every": 24, "until": 240, "interruptible": true, "blocking": true,
                    "setups": {"families": ["oak", "ash"], "times": [[0, 3], [2, 0]], "initial": [1, 1]}},
                   {"name": "crew", "kind": "renewable", "capacity": 3},
                   {"name": "glue", "kind": "non_renewable", "capacity": 40}],
     "transport": [["saw", "drill", 4]],
     "jobs": [{"name": "table", "release": 0, "due": 60, "deadline": 90, "weight": 2, "chain": "no_wait",
               "operations": [{"machine": "saw", "duration": 5, "family": "oak"},
                              {"name": "fit", "modes": [{"machines": ["drill"], "duration": 4, "demands": {"crew": 2}}],
                               "frozen": {"mode": 0, "start": 3}}]}],
     "precedences": [{"first": "table.0", "second": "fit", "kind": "start_start", "least": 2, "most": 9}]}

A resource without a kind is a machine. The operations of a job follow each other in the order given, unless its "chain" is false ("no_wait":
without waiting between them). "zero_durations": true lets work on a resource take no time. An unnamed operation is
called job.0, job.1, ... A break that ends at null never ends.
"""

import json
from collections.abc import Mapping
from json import decoder, scanner
from typing import Any

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import NEVER, PRECEDENCE_KINDS, RESOURCE_KINDS, Problem
from rota.worlds.shop.objective import Objective
from rota.worlds.shop.read.source import Source

FORMAT = "rota-shop"


class Row(dict[str, Any]):
    """A JSON object that knows its line."""

    line: int


class _Located(json.JSONDecoder):
    """The standard decoder in Python, whose objects keep the line they begin on."""

    def __init__(self) -> None:
        super().__init__()
        plain = decoder.JSONObject  # type: ignore[attr-defined]

        def located(state: tuple[str, int], *rest: Any) -> tuple[Row, int]:
            text, begin = state
            pairs, end = plain(state, rest[0], rest[1], None, list, rest[4])
            row = Row(pairs)
            row.line = text.count("\n", 0, begin) + 1
            if len(row) != len(pairs):
                twice = next(key for key in row if sum(key == other for other, _ in pairs) > 1)
                raise InputError(f"line {row.line}: '{twice}' is there twice")
            return row, end

        self.parse_object = located
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def parse(source: Source) -> Row:
    """The file's top object, with lines. Raises InputError."""
    try:
        found = _Located().decode(source.text)
    except json.JSONDecodeError as error:
        source.fail(error.lineno, f"is not valid JSON: {error.msg}")
    except InputError as error:
        raise InputError(f"{source.name}, {error}") from None
    except RecursionError:
        source.fail(None, "is nested too deeply")
    if not isinstance(found, Row):
        source.fail(1, "expected a JSON object")
    return found


def document(source: Source, index: int = 0) -> Problem:
    """A problem in our JSON."""
    if index:
        source.fail(None, f"has 1 instance, there is no #{index + 1}")
    return _Reader(source).read()


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.top = parse(source)
        self.resources: dict[str, int] = {}
        self.operations: dict[str, int] = {}
        self.families: dict[int, list[str]] = {}

    def read(self) -> Problem:
        top = self.top
        self._keys(
            top,
            "problem",
            (
                "format",
                "name",
                "objective",
                "permutation",
                "zero_durations",
                "resources",
                "transport",
                "jobs",
                "precedences",
            ),
        )
        if top.get("format", FORMAT) != FORMAT:
            self.source.fail(top.line, f"format is '{top['format']}', expected '{FORMAT}'")
        self.builder = ProblemBuilder(name=str(top.get("name", self.source.stem)), source=self.source.name)
        self.builder.permutation = self._flag(top, "permutation")
        self.builder.zero_durations = self._flag(top, "zero_durations")
        try:
            self.builder.objective = Objective.parse(str(top.get("objective", "makespan")))
        except InputError as error:
            self.source.fail(top.line, str(error))
        for row in self._rows(top, "resources"):
            self._resource(row)
        for entry in self._list(top, "transport", top.line):
            if not isinstance(entry, list) or len(entry) != 3:
                self.source.fail(top.line, f"transport: expected [from, to, time], found {entry!r}")
            first, second = (self._find(name, self.resources, "machine", top.line) for name in entry[:2])
            self.builder.line = top.line
            self.builder.add_transport(first, second, entry[2])
        for row in self._rows(top, "jobs"):
            self._job(row)
        for row in self._rows(top, "precedences"):
            self._precedence(row)
        return self.builder.build()

    def _resource(self, row: Row) -> None:
        known = ("name", "kind", "capacity", "blocking", "interruptible", "breaks", "every", "until", "setups")
        self._keys(row, "resource", known)
        kind = row.get("kind", "machine")
        if kind not in RESOURCE_KINDS:
            self.source.fail(row.line, f"resource kind '{kind}' does not exist{nearest(str(kind), RESOURCE_KINDS)}")
        name = str(row.get("name", f"{'machine' if kind == 'machine' else 'resource'}{len(self.resources)}"))
        if name in self.resources:
            self.source.fail(row.line, f"resource {name} is there twice; ids must differ")
        interruptible = self._flag(row, "interruptible")
        if kind == "machine":
            if row.get("capacity", 1) != 1:
                self.source.fail(row.line, f"machine {name} has capacity {row['capacity']}; give it kind renewable")
            number = self.builder.add_machine(name, blocking=self._flag(row, "blocking"), interruptible=interruptible)
        else:
            if "capacity" not in row:
                self.source.fail(row.line, f"resource {name} has no capacity")
            number = self.builder.add_resource(
                name, capacity=row["capacity"], renewable=kind == "renewable", interruptible=interruptible
            )
        self.resources[name] = number
        spans = [self._span(each, row.line) for each in self._list(row, "breaks", row.line)]
        if spans or "every" in row:
            self.builder.add_breaks(number, spans, every=row.get("every"), until=row.get("until"))
        if "setups" in row:
            self._setups(row["setups"], number, name, row.line)

    def _span(self, entry: Any, line: int) -> tuple[int, int]:
        if not isinstance(entry, list) or len(entry) != 2:
            self.source.fail(line, f"breaks: expected [start, end], found {entry!r}")
        return entry[0], NEVER if entry[1] is None else entry[1]

    def _setups(self, row: Any, number: int, name: str, line: int) -> None:
        if not isinstance(row, Row):
            self.source.fail(line, f"setups of {name}: expected an object with times")
        self._keys(row, "setups", ("families", "times", "initial"))
        times = self._list(row, "times", row.line)
        given = row.get("families", list(range(len(times))))
        if not isinstance(given, list):
            self.source.fail(row.line, f"setups of {name}: families must be a list of names, found {given!r}")
        families = [str(each) for each in given]
        if len(families) != len(times) or not all(isinstance(each, list) for each in times):
            self.source.fail(
                row.line, f"setups of {name}: {len(families)} families need as many rows of times, found {len(times)}"
            )
        if len(set(families)) != len(families):
            self.source.fail(row.line, f"setups of {name}: a family is there twice")
        self.families[number] = families
        self.builder.set_setups(number, times, row.get("initial"))

    def _job(self, row: Row) -> None:
        known = ("name", "release", "due", "deadline", "weight", "one_at_a_time", "chain", "operations")
        self._keys(row, "job", known)
        given = {key: row[key] for key in ("release", "due", "deadline", "weight") if row.get(key) is not None}
        alone = self._flag(row, "one_at_a_time")
        job = self.builder.add_job(str(row.get("name", "")), one_at_a_time=alone, **given)
        chain = row.get("chain", not alone)
        if chain not in (True, False, "no_wait"):
            self.source.fail(row.line, f'chain must be true, false or "no_wait", found {chain!r}')
        operations = [self._operation(each, job, row) for each in self._rows(row, "operations")]
        self.builder.line = row.line
        if chain:
            self.builder.add_chain(operations, most=0 if chain == "no_wait" else None)

    def _operation(self, row: Row, job: int, owner: Row) -> int:
        mode_keys = ("duration", "machine", "machines", "demands", "family")
        self._keys(row, "operation", ("name", "release", "deadline", "modes", "frozen", *mode_keys))
        if "modes" in row and any(key in row for key in mode_keys):
            self.source.fail(row.line, "an operation has either modes or a duration of its own, not both")
        given = {key: row[key] for key in ("release", "deadline") if row.get(key) is not None}
        number = self.builder.add_operation(job, str(row.get("name", "")), **given)
        name = self.builder.operation_name(number)
        if name in self.operations:
            self.source.fail(row.line, f"operation {name} is there twice; ids must differ")
        self.operations[name] = number
        if "modes" in row:
            modes = [self._mode(each, number) for each in self._rows(row, "modes")]
        else:
            modes = [self._mode(Row((key, row[key]) for key in mode_keys if key in row), number, row.line)]
        frozen = row.get("frozen")
        if frozen is not None:
            if not isinstance(frozen, Row):
                self.source.fail(row.line, "frozen: expected an object with mode and start")
            self._keys(frozen, "frozen", ("mode", "start", "end"))
            which = frozen.get("mode", 0)
            if not isinstance(which, int) or not 0 <= which < len(modes):
                self.source.fail(frozen.line, f"frozen mode {which!r} does not exist (modes are 0..{len(modes) - 1})")
            if "start" not in frozen:
                self.source.fail(frozen.line, "a frozen operation needs its start")
            self.builder.freeze(number, modes[which], frozen["start"], frozen.get("end"))
        return number

    def _mode(self, row: Row, operation: int, line: int | None = None) -> int:
        row.line = line or row.line
        self._keys(row, "mode", ("duration", "machine", "machines", "demands", "family"))
        if "duration" not in row:
            self.source.fail(row.line, f"operation {self.builder.operation_name(operation)} has no duration")
        names = row.get("machines", [row["machine"]] if "machine" in row else [])
        if not isinstance(names, list):
            self.source.fail(row.line, "machines must be a list of names")
        machines = [self._find(name, self.resources, "machine", row.line) for name in names]
        wanted = row.get("demands", {})
        if not isinstance(wanted, Mapping):
            self.source.fail(row.line, "demands must be an object of resource: amount")
        demands = {self._find(name, self.resources, "resource", row.line): amount for name, amount in wanted.items()}
        family = -1
        if "family" in row:
            known = self.families.get(machines[0], []) if machines else []
            if str(row["family"]) not in known:
                self.source.fail(
                    row.line,
                    f"setup family '{row['family']}' is not known to the machine{nearest(str(row['family']), known)}",
                )
            family = known.index(str(row["family"]))
        return self.builder.add_mode(operation, row["duration"], machines, demands=demands, family=family)

    def _precedence(self, row: Row) -> None:
        self._keys(row, "precedence", ("first", "second", "kind", "least", "most"))
        ends = [self._find(row.get(key), self.operations, "operation", row.line) for key in ("first", "second")]
        kind = row.get("kind", "finish_start")
        if kind not in PRECEDENCE_KINDS:
            self.source.fail(row.line, f"precedence kind '{kind}' does not exist{nearest(str(kind), PRECEDENCE_KINDS)}")
        self.builder.add_precedence(ends[0], ends[1], kind=kind, least=row.get("least", 0), most=row.get("most"))

    def _find(self, name: Any, known: Mapping[str, int], what: str, line: int) -> int:
        if not isinstance(name, str) or name not in known:
            self.source.fail(line, f"{what} {name!r} does not exist{nearest(str(name), list(known)[:50])}")
        return known[name]

    def _keys(self, row: Row, what: str, known: tuple[str, ...]) -> None:
        self.builder_line(row)
        for key in row:
            if key not in known:
                self.source.fail(row.line, f"{what}: key '{key}' does not exist{nearest(key, known)}")

    def builder_line(self, row: Row) -> None:
        """What is added from now on comes from this row's line."""
        if hasattr(self, "builder"):
            self.builder.line = row.line

    def _flag(self, row: Row, key: str) -> bool:
        value = row.get(key, False)
        if not isinstance(value, bool):
            self.source.fail(row.line, f"{key} must be true or false, found {value!r}")
        return value

    def _list(self, row: Row, key: str, line: int) -> list[Any]:
        value = row.get(key, [])
        if not isinstance(value, list):
            self.source.fail(line, f"{key} must be a list")
        return value

    def _rows(self, row: Row, key: str) -> list[Row]:
        found = self._list(row, key, row.line)
        for each in found:
            if not isinstance(each, Row):
                self.source.fail(row.line, f"{key} must be a list of objects, found {each!r}")
        return found

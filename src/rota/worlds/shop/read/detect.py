"""Which format a text is in, from its structure alone."""

from rota.worlds.shop.read.shop_text import is_flow_shop, taillard_blocks
from rota.worlds.shop.read.source import Source
from rota.worlds.shop.read.tardiness_text import size_in_name

Numbers = list[list[int]]


def recognise(source: Source, promised: str | None = None) -> str | None:
    """The name of the format whose structure the whole text has; None where none fits.

    Numbers alone may fit two formats. Then it is the one that the file's ending promised, or else a job shop where every job
    visits every machine once. Raises InputError where that does not tell.
    """
    text = source.text.lstrip()
    if text.startswith(("{", "[")):
        return "json"
    if "PRECEDENCE RELATIONS" in text:
        return "psplib"
    head = text.splitlines()[0].lower()
    if any(separator in head for separator in ",;") and "job" in [
        word.strip() for word in head.replace(";", ",").split(",")
    ]:
        return "csv"
    if "nb of jobs" in text.lower() or "number of jobs" in text.lower():
        return "taillard"
    if size_in_name(source) is not None:
        return "tardiness"
    numbers = _numbers(source)
    if numbers is None:
        return "taillard" if _plain_taillard(source) else None
    fitting = [
        name for name, fits in (("standard", _standard), ("fjs", _flexible), ("patterson", _patterson)) if fits(numbers)
    ]
    if _plain_taillard(source):
        fitting.append("taillard")
    if promised in fitting:
        return promised
    if len(fitting) > 1 and not (fitting[0] == "standard" and _visits_all_once(numbers)):
        source.fail(None, f"could be {' or '.join(fitting)}: say which with --format")
    return fitting[0] if fitting else None


def closest(source: Source) -> str:
    """The format whose reader gives the most useful error for a text that has the structure of none."""
    numbers = _numbers(source)
    if numbers is None or len(numbers[0]) != 2:
        return "standard"
    rows = numbers[1:]
    prefixed = sum(bool(row) and len(row) % 2 == 1 and 2 * row[0] < len(row) + 1 for row in rows)
    return "fjs" if 2 * prefixed > len(rows) else "standard"


def _numbers(source: Source) -> Numbers | None:
    """All rows as integers (the first may have a decimal third, an average of FJSPLIB); None where there is text, or nothing but comments."""
    found = []
    for place, (_, words) in enumerate(source.rows):
        kept = words[:2] if place == 0 and len(words) == 3 and _decimal(words[2]) else words
        try:
            found.append([int(word) for word in kept])
        except ValueError:
            return None
    return found or None


def _decimal(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


def _standard(rows: Numbers) -> bool:
    if len(rows[0]) != 2:
        return False
    jobs, machines = rows[0]
    return len(rows) == jobs + 1 and all(
        len(row) == 2 * machines and all(0 <= machine < machines for machine in row[::2]) for row in rows[1:]
    )


def _visits_all_once(rows: Numbers) -> bool:
    return all(sorted(row[::2]) == list(range(rows[0][1])) for row in rows[1:])


def _flexible(rows: Numbers) -> bool:
    if len(rows[0]) < 2 or len(rows) != rows[0][0] + 1:
        return False
    for row in rows[1:]:
        at = 1
        for _ in range(row[0]):
            if at >= len(row) or row[at] < 1:
                return False
            at += 1 + 2 * row[at]
        if at != len(row):
            return False
    return True


def _patterson(rows: Numbers) -> bool:
    values = [value for row in rows for value in row]
    if len(values) < 2 or values[0] < 1 or values[1] < 0:
        return False
    at = 2 + values[1]
    for _ in range(values[0]):
        at += 1 + values[1]
        if at >= len(values) or values[at] < 0:
            return False
        at += 1 + values[at]
    return at == len(values)


def _plain_taillard(source: Source) -> bool:
    """``jobs machines``, then two matrices or that of a flow shop, with or without their headings."""
    try:
        blocks = taillard_blocks(source)
        (_, head), rows = blocks[0]
        jobs, machines = int(head[0]), int(head[1])
    except (IndexError, ValueError):
        return False
    flow = is_flow_shop(rows, jobs, machines)
    width = jobs if flow else machines
    return len(blocks) == 1 and (flow or len(rows) == 2 * jobs) and all(len(words) == width for _, words in rows)

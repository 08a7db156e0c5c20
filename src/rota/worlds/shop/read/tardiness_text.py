"""OR-Library weighted tardiness: for each instance the n durations, the n weights and the n due dates; line ends mean nothing.

The file does not say n: it is taken from its name (wt40.txt), or given.
"""

import re

from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Problem
from rota.worlds.shop.objective import Objective
from rota.worlds.shop.read.source import Source


def weighted_tardiness(source: Source, index: int, jobs: int | None = None) -> Problem:
    """Instance `index` (from 0) of an OR-Library file of weighted tardiness problems with `jobs` jobs each."""
    size = jobs or size_in_name(source)
    if size is None:
        source.fail(None, "does not say how many jobs an instance has; name it wt40.txt or give jobs=40")
    words = list(source.words())
    if len(words) % (3 * size):
        source.fail(source.last_line, f"has {len(words)} numbers, which is no multiple of 3 x {size} jobs")
    count = len(words) // (3 * size)
    if not 0 <= index < count:
        source.fail(None, f"has {count} instances, there is no #{index + 1}")
    name = f"{source.stem}#{index + 1}" if count > 1 else source.stem
    builder = ProblemBuilder(name=name, source=source.name, objective=Objective((("weighted_tardiness", 1),)))
    machine = builder.add_machine()
    block = words[3 * size * index : 3 * size * (index + 1)]
    for job in range(size):
        values = {}
        for place, what in enumerate(("duration", "weight", "due")):
            line, word = block[place * size + job]
            values[what] = source.integer(word, line, f"{what} of job {job}")
        builder.line = block[job][0]
        builder.add_job(due=values["due"], weight=values["weight"])
        builder.add_mode(builder.add_operation(job), values["duration"], machine)
    return builder.build()


def size_in_name(source: Source) -> int | None:
    """The 40 of wt40.txt."""
    found = re.match(r"wt(\d+)", source.stem.lower())
    return int(found[1]) if found and int(found[1]) > 0 else None

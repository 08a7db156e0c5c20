"""A scenario that runs in a blink, written where a test wants it."""

from pathlib import Path

SMALL = """
world: serving
name: small
workload:
  generate: {kind: chat, requests: 300, rate: 8.0}
fleet:
  - {model: llama-3-8b, gpu: a100-80g, count: 2}
policies:
  - {name: turns, route: round_robin}
  - {name: luck, route: random}
seeds: 2
"""

BROKEN_POLICY = """
from dataclasses import dataclass

from rota.kernel.decisions import Order


@dataclass
class Breaks(Order):
    reads = ("prompt_tokens",)

    def keys(self, jobs, now):
        raise ZeroDivisionError("the user's bug")
"""

TRACE = "arrival,prompt_tokens,output_tokens\n" + "".join(
    f"{0.2 * i:.1f},{100 + i % 7 * 50},{20 + i % 5}\n" for i in range(200)
)


def write(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    """The scenario as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def replay(
    folder: Path,
    seeds: int = 1,
    policies: str = "[{name: turns, route: round_robin}, {name: same, route: round_robin}]",
) -> Path:
    """A scenario that replays a trace."""
    (folder / "trace.csv").write_text(TRACE, encoding="utf-8")
    text = SMALL[: SMALL.index("policies:")] + f"policies: {policies}\nseeds: {seeds}\n"
    columns = "{arrival: arrival, prompt_tokens: prompt_tokens, output_tokens: output_tokens}"
    return write(
        folder,
        text.replace("  generate: {kind: chat, requests: 300, rate: 8.0}", f"  trace: trace.csv\n  columns: {columns}"),
    )

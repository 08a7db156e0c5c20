"""The page of policies, written from the code.

`python docs/policy_table.py` prints it; mkdocs, whose hook this is, puts it in as policies.md.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rota.kernel.decisions import Plan, Policy
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.worlds import WORLDS, world

ROOMS: tuple[tuple[str, str, Mapping[str, type[Policy]]], ...] = (
    ("Orders: who goes first?", "Roles `order`, `hold` and `victim`, in every world.", ORDERS),
    ("Places: where does this job go?", "Role `route`, in every world.", PLACES),
    ("Allotments: how much does each get?", "Role `share`, where a world divides its servers.", ALLOTS),
    *(
        (f"{name.capitalize()}: {role}", f"Role `{role}` in the world `{name}`.", room)
        for name in WORLDS
        for role, room in world(name).rooms.items()
    ),
)
INTRODUCTION = """# Policies

Every name that a scenario may use. This page is written from the code. A parameter is given as
`{name: {parameter: value}}`; your own policy is `my_module:MyPolicy`, a file beside the scenario. *Reads* are the
columns that the policy is shown: what is not there, it cannot know.
"""


def page() -> str:
    """The page in Markdown."""
    return "\n".join([INTRODUCTION, *(line for room in ROOMS if room[2] for line in _room(*room))])


def _room(title: str, about: str, policies: Mapping[str, type[Policy]]) -> Iterator[str]:
    yield from (f"## {title}", "", about, "")
    yield from ("| name | what it does | parameters | reads | asked |", "|---|---|---|---|---|")
    for name, policy in policies.items():
        cells = (f"`{name}`", _about(policy), _parameters(policy), _reads(policy), _asked(policy))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for module in dict.fromkeys(policy.__module__ for policy in policies.values()):
        names = ", ".join(f"`{name}`" for name, policy in policies.items() if policy.__module__ == module)
        yield from (f"**{names}.** {_module_text(module)}", "")


def _about(policy: type[Policy]) -> str:
    return inspect.cleandoc(policy.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _module_text(module: str) -> str:
    """A module's docstring on one line: the idea, the mechanism and the reference."""
    text = inspect.getdoc(__import__(module, fromlist=["_"])) or ""
    return " ".join(text.split())


def _parameters(policy: type[Policy]) -> str:
    shown = []
    for name, parameter in inspect.signature(policy).parameters.items():
        value = "required" if parameter.default is inspect.Parameter.empty else parameter.default
        shown.append(f"`{name}` = {_plain(value)}")
    return ", ".join(shown) or "none"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reads(policy: type[Policy]) -> str:
    if issubclass(policy, Plan):
        return "the whole problem"
    instance = policy()
    return _listed([*instance.reads, *getattr(instance, "reads_job", ())])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "nothing"


def _asked(policy: type[Policy]) -> str:
    if issubclass(policy, Plan):
        return "once"
    asked = {"arrival": "once, at arrival", "pick": "again after each pick"}.get(
        getattr(policy, "asked", ""), "at each decision"
    )
    return asked + (", preemptive" if getattr(policy, "preemptive", False) else "")


def on_files(files: Any, config: Any) -> Any:
    """A hook of mkdocs: the page goes in without lying in the tree."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "policies.md", content=page()))
    return files


if __name__ == "__main__":
    print(page())

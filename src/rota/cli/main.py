"""`rota`: the front door. Each command imports what it needs when it runs, so that help answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rota import __version__
from rota.cli.engine import engine
from rota.cli.fit_timing import fit_timing
from rota.kernel.errors import InputError, RotaError

app = typer.Typer(
    name="rota",
    help="Who runs next, where, and with how much: published schedulers on your workload, ranked with statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO", help="A YAML file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rota {__version__}")
        raise typer.Exit


@app.callback()
def rota(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that need no command."""


@app.command()
def run(
    scenario: ScenarioFile,
    overrides: Overrides = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds, instead of the scenario's.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; all cores when not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    executor: Annotated[str, typer.Option(help="Where cells run: processes, or ray.")] = "processes",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without one, it is started here.")] = None,
) -> None:
    """Run a scenario: every policy on every seed, a league table, a report."""
    from rota.cli.run import run_scenario

    run_scenario(scenario, overrides or [], seeds, jobs, out, as_json, quiet, executor, address)


@app.command()
def solve(
    problem: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="An instance file, or a published one: ta41, ft06.")
    ],
    solver: Annotated[str, typer.Option(help="portfolio, cpsat, tabu, rule:mwkr, ...")] = "portfolio",
    seconds: Annotated[float | None, typer.Option("--time", help="Seconds; 60 without --work.")] = None,
    work: Annotated[int | None, typer.Option(help="Work instead of time: the same result to the bit.")] = None,
    workers: Annotated[int, typer.Option(help="Threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
    starts: Annotated[
        int | None, typer.Option(help="Independent starts instead of one run: the best, and what their times say.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Such as makespan, or 2*makespan + total_tardiness.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="Of the file; recognised when not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="The schedule as JSON.")] = None,
    gantt: Annotated[Path | None, typer.Option(help="A Gantt chart: .html, .svg or .png.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress line.")] = False,
) -> None:
    """Find a schedule, and say how far it is from the best possible."""
    from rota.cli.solve import solve_problem

    solve_problem(problem, solver, seconds, work, workers, seed, starts, objective, form, out, gantt, as_json, quiet)


@app.command()
def check(scenario: ScenarioFile, overrides: Overrides = None) -> None:
    """Check a scenario without running it."""
    from rota.cli.check import check_scenario

    check_scenario(scenario, overrides or [])


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(metavar="worlds|policies|gpus|models")],
    as_json: AsJson = False,
    world: Annotated[str | None, typer.Option(help="Of policies: only those that a world can use.")] = None,
) -> None:
    """List what there is to choose from."""
    from rota.cli.list import list_known

    list_known(what, as_json, world)


@app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Print the league of a finished study again."""
    from rota.cli.show import show_study

    show_study(folder, as_json)


@app.command()
def report(folder: Folder) -> None:
    """Write report.html of a finished study again."""
    from rota.cli.show import rebuild_report

    rebuild_report(folder)


@app.command()
def route(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A YAML file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration and leave.")] = False,
    hash_key: Annotated[
        str | None, typer.Option("--hash-key", metavar="sha256|scrypt", help="Read an API key, print its hash.")
    ] = None,
    ask: Annotated[
        str | None, typer.Option(help="Ask a running router: status, policy, drain or reload; CONFIG is its socket.")
    ] = None,
    place: Annotated[str | None, typer.Option(help="With --ask policy: the new place policy.")] = None,
    hold: Annotated[str | None, typer.Option(help="With --ask policy: the new order of the waiting line.")] = None,
) -> None:
    """Route live traffic to OpenAI-compatible engines, by the policies of the serving world."""
    from rota.cli import route as command

    if hash_key is not None:
        command.hash_key(hash_key)
    elif config is None:
        raise InputError("route: name a configuration file")
    elif ask is not None:
        command.ask_router(config, ask, place, hold)
    else:
        command.run_route(config, check)


@app.command()
def loop(
    recording: Annotated[
        Path,
        typer.Argument(
            metavar="RECORDING", help="The folder that rota route recorded, or the admin socket of a running router."
        ),
    ],
    policies: Annotated[str, typer.Option(help="Places to compare, with commas; module:Class too.")] = (
        "round_robin,random,power_of_two,least_outstanding,least_work"
    ),
    objective: Annotated[str, typer.Option(help="The metric to rank by.")] = "ttft_p90",
    under: Annotated[str | None, typer.Option(help="Of a recording under several policies: replay this one's.")] = None,
    fixed_arrivals: Annotated[
        bool, typer.Option("--fixed-arrivals", help="Requests of a session do not wait for each other's answers.")
    ] = False,
    model: Annotated[str, typer.Option(help="Of the catalogue: rota list models.")] = "llama-3.1-8b",
    gpu: Annotated[str, typer.Option(help="Of the catalogue: rota list gpus.")] = "h100",
    kv_blocks: Annotated[int | None, typer.Option(help="Of each engine; as its metrics said when not given.")] = None,
    prefix_caching: Annotated[bool, typer.Option("--prefix-caching", help="The engines have a prefix cache.")] = False,
    apply: Annotated[
        Path | None, typer.Option(help="The admin socket of a router: the winner becomes its policy.")
    ] = None,
    watch: Annotated[float, typer.Option(help="Seconds to wait after --apply, then measured against predicted.")] = 0.0,
    scenario: Annotated[Path | None, typer.Option(help="Write the replay as a scenario for rota run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a recording under several policies; apply the winner to the running router."""
    from rota.cli.loop import run_loop
    from rota.route.loop import split
    from rota.route.replay import Shape

    shape = Shape(model=model, gpu=gpu, kv_blocks=kv_blocks, prefix_caching=prefix_caching)
    names = split(policies)
    run_loop(recording, names, objective, shape, apply, watch, scenario, as_json, under, not fixed_arrivals)


app.command(name="fit-timing")(fit_timing)
app.command()(engine)


def _tell(error: typer.TyperException) -> None:
    """A mistake in the arguments in one line; a command without any arguments answers with its help."""
    text, context = error.format_message().strip().rstrip("."), getattr(error, "ctx", None)
    if "\n" in text or context is None:
        print(text, file=sys.stderr)
        return
    where = context.command_path
    print(f"error: {where}: {text[:1].lower()}{text[1:]}; see '{where} --help'", file=sys.stderr)


def main() -> None:
    """Run the command line. A user's mistake ends in one line and exit code 2."""
    try:
        sys.exit(app(prog_name="rota", standalone_mode=False) or 0)
    except typer.TyperException as error:
        _tell(error)
        sys.exit(2)
    except RotaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: what was finished is kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()

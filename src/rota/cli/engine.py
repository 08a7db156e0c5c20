"""``rota engine``: a replica of the serving world behind vLLM's HTTP interface."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rota.kernel.extras import need

Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A YAML file; options override it.")]
Fail = Annotated[
    list[str] | None,
    typer.Option(
        help="A fault, such as status:status=503,probability=0.1 or restart:after=60,seconds=5; may be repeated."
    ),
]


def engine(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Where to listen [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free one [8000].")] = None,
    model: Annotated[str | None, typer.Option(help="`rota list models` [llama-3.1-8b].")] = None,
    gpu: Annotated[str | None, typer.Option(help="`rota list gpus` [h100].")] = None,
    tp: Annotated[int | None, typer.Option(help="GPUs of the replica [1].")] = None,
    kv_blocks: Annotated[int | None, typer.Option(help="Blocks of the KV cache [what fits].")] = None,
    max_running: Annotated[int | None, typer.Option(help="Requests in a batch [256].")] = None,
    max_batched_tokens: Annotated[int | None, typer.Option(help="Tokens of an iteration [8192].")] = None,
    batch: Annotated[str | None, typer.Option(help="The batcher [vllm_v1].")] = None,
    prefix_caching: Annotated[bool | None, typer.Option(help="Compute equal prompt prefixes once [no].")] = None,
    speed: Annotated[float | None, typer.Option(help="Engine seconds a real second [1].")] = None,
    seed: Annotated[int | None, typer.Option(help="Of words, lengths, noise and faults [0].")] = None,
    noise: Annotated[float | None, typer.Option(help="Sigma of a factor on every iteration [0].")] = None,
    slower: Annotated[float | None, typer.Option(help="Factor on every iteration [1].")] = None,
    output_tokens: Annotated[str | None, typer.Option(help="Lognormal mean,sigma [211,1.0].")] = None,
    fail: Fail = None,
    served_model_name: Annotated[str | None, typer.Option(help="What clients call the model [its name].")] = None,
    api_key: Annotated[str | None, typer.Option(help="What clients must send [nothing].")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for running requests at the end [30].")] = None,
) -> None:
    """Serve a simulated LLM replica over HTTP, as vLLM would: real timing, no GPU."""
    options: dict[str, Any] = {**locals()}
    serve(config, {name: value for name, value in options.items() if name != "config" and value is not None})


def serve(config: Path | None, options: dict[str, Any]) -> None:
    """Run an engine until SIGINT or SIGTERM. Raises InputError, MissingExtraError."""
    need("route", "rota engine", "aiohttp", "prometheus_client")
    import asyncio

    from rota.route.engine.engine import engine_of
    from rota.route.engine.selector import new_event_loop
    from rota.route.engine.settings import parse_fault, parse_output_tokens

    if "output_tokens" in options:
        options["output_tokens"] = parse_output_tokens(options["output_tokens"])
    if "fail" in options:
        options["fail"] = [parse_fault(text) for text in options["fail"]]
    made = engine_of(config, options)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_until_told(made))


async def _until_told(made: Any) -> None:
    """Serve until a signal comes; a second one ends at once."""
    import asyncio
    import signal

    told = asyncio.Event()
    now = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        (now if told.is_set() else told).set()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, tell)
    await made.start()
    plan = made.plan
    print(
        f"rota engine: {plan.name} on {made.url} ({plan.settings.tp} x {plan.settings.gpu}, {plan.kv_blocks:,} KV blocks, "
        f"speed {plan.settings.speed:g}); stop with Ctrl-C",
        flush=True,
    )
    await told.wait()
    if made.live.outstanding:
        print(f"ending: {made.live.outstanding} requests run on for at most {plan.settings.grace:g} s", flush=True)
    stopping = asyncio.ensure_future(made.stop())
    hurry = asyncio.ensure_future(now.wait())
    await asyncio.wait((stopping, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)

"""What an engine is told: the keys of its YAML file, which are also its options and the arguments of `Engine`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.route.engine.faults import Fault, check_fault
from rota.rules.find import find
from rota.worlds.serving import catalogue
from rota.worlds.serving.batching import RESERVE_FIXED, Batcher, BatchRules
from rota.worlds.serving.batching import Engine as BatcherEngine
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.settings import Group, Positive, Share, kv_blocks
from rota.worlds.serving.timing import Timing, build

Factor = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class OutputTokens(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Lengths of answers: lognormal. The default has the mean and the median (128) of the Azure 2023 conversations."""

    mean: Factor = 211.0  # tokens
    sigma: NotNegative = 1.0  # of the logarithm


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An engine as it is written. Times are engine seconds, except `grace`."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000  # 0: any free one
    model: str = "llama-3.1-8b"
    gpu: str = "h100"
    tp: Positive = 1
    kv_blocks: Positive | None = None  # None: from memory, weights and the activation reserve
    block_tokens: Positive = 16
    memory_utilisation: Share = 0.9
    max_running: Positive = 256
    max_batched_tokens: Positive = 8192
    context: Positive | None = None  # longest prompt and answer; None: the model's
    prefix_caching: bool = False
    batch: Any = "vllm_v1"
    timing: Any = "roofline"
    speed: Factor = 1.0  # engine seconds a real second
    slower: Factor = 1.0  # on the seconds of every iteration
    noise: NotNegative = 0.0  # sigma of a lognormal factor of mean 1 on the seconds of every iteration
    seed: int = 0
    output_tokens: OutputTokens = OutputTokens()
    served_model_name: str | None = None  # None: `model`
    api_key: str | None = None  # what clients must send as bearer
    fail: tuple[Fault, ...] = ()
    grace: NotNegative = 30.0  # real seconds that running requests get when the engine is told to end


@dataclass(frozen=True)
class Plan:
    """Settings with everything looked up: what a replica is built from."""

    settings: Settings
    name: str  # the model's, as clients say it
    rules: BatchRules
    timing: Timing
    kv_blocks: int
    longest: int  # prompt and answer together, tokens
    longest_prompt: int
    hidden: int  # width of the model: of an embedding


def read(file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a YAML file (none: the defaults), with some replaced.

    Raises:
        InputError: no such file, not YAML, unknown key (nearest ones named), value out of range.
    """
    found = dict[str, Any]()
    if file is not None:
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError(f"{file}: cannot be read ({reason})") from None
        except yaml.YAMLError as error:
            raise InputError(f"{file}: is not YAML: {' '.join(str(error).split())}") from None
        if data is not None and not isinstance(data, dict):
            raise InputError(f"{file}: expected keys such as model and gpu, found {data!r}")
        found = data or {}
        try:
            decode(Settings, found, "")
        except InputError as error:
            raise InputError(f"{file}: {str(error).removeprefix('settings: ')}") from None
    return decode(Settings, {**found, **overrides}, "")


def resolve(settings: Settings, folder: Path | None = None) -> Plan:
    """Look everything up. `folder`: what relative paths are relative to.

    Raises:
        InputError: unknown model, GPU, batcher or timing; a model that does not fit; a fault that cannot be.
    """
    model, gpu = catalogue.model(settings.model), catalogue.gpu(settings.gpu)
    catalogue.check_parallel(model, settings.tp)
    names = ("tp", "kv_blocks", "block_tokens", "memory_utilisation", "max_running", "max_batched_tokens")
    group = Group(settings.model, settings.gpu, **{name: getattr(settings, name) for name in names})
    blocks, context = kv_blocks(group, model, gpu), settings.context or model.context
    batcher = find("allot", settings.batch, [BATCHERS], folder, "batch")
    if not isinstance(batcher, Batcher):
        raise InputError("batch: must derive from rota.worlds.serving.batching.Batcher")
    shape = BatcherEngine(blocks, settings.block_tokens, settings.max_running, settings.max_batched_tokens, context)
    rules = batcher.rules(shape)
    if not rules.plain or batcher.advises:
        raise InputError(
            f"batch: {settings.batch} works in the simulated fleet only; an engine can be one of {', '.join(ENGINE_BATCHERS)}"
        )
    longest, longest_prompt = limits(rules, blocks, settings.block_tokens, context)
    if longest < 2:
        raise InputError(f"kv_blocks: {blocks} blocks of {settings.block_tokens} tokens hold no request; give more")
    for number, fault in enumerate(settings.fail):
        check_fault(fault, f"fail[{number}]")
    return Plan(
        settings=settings,
        name=settings.served_model_name or settings.model,
        rules=rules,
        timing=build(settings.timing, model, gpu, settings.tp, folder or Path()),
        kv_blocks=blocks,
        longest=longest,
        longest_prompt=longest_prompt,
        hidden=model.hidden,
    )


ENGINE_BATCHERS = ("vllm_v0", "vllm_v1", "sarathi", "orca", "static", "splitwise")


def limits(rules: BatchRules, kv_blocks: int, block_tokens: int, context: int) -> tuple[int, int]:
    """The longest request, and the longest prompt, that a replica can ever serve, tokens.

    The last token of an answer is never in the cache. Whoever asks for more would wait for ever.
    """
    room = (kv_blocks - rules.watermark_blocks) * block_tokens
    if rules.reserve == RESERVE_FIXED:
        room = min(room, rules.reserve_tokens)
    longest = min(context, room + 1)
    whole = not rules.chunked and not rules.mixed  # a prompt is one batch
    return longest, min(longest - 1, rules.budget) if whole else longest - 1


_PAIR = re.compile(r"([a-z_]+)=([^,]*)")


def parse_output_tokens(text: str) -> dict[str, float]:
    """``mean,sigma`` of a command line. Raises InputError."""
    try:
        mean, sigma = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--output-tokens: expected mean,sigma such as 211,1.0, found '{text}'") from None
    return {"mean": mean, "sigma": sigma}


def parse_fault(text: str) -> dict[str, Any]:
    """A fault of a command line: ``kind:key=value,key=value``. Raises InputError."""
    kind, _, rest = text.partition(":")
    pairs = _PAIR.findall(rest)
    if ",".join(f"{key}={value}" for key, value in pairs) != rest:
        raise InputError(
            f"--fail: expected kind:key=value,key=value such as status:status=503,probability=0.1, found '{text}'"
        )
    return {"kind": kind, **{key: yaml.safe_load(value) for key, value in pairs}}

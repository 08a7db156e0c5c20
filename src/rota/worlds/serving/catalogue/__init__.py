"""Known GPUs and models, and how many KV blocks of one fit beside the other.

The figures are in ``gpus.toml`` and ``models.toml``, each with its source.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from rota.kernel.errors import InputError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU. Rates are dense tensor-core peaks of the data sheet."""

    name: str
    title: str
    memory: int  # bytes on the board
    bandwidth: float  # bytes/s of the memory
    bf16: float  # flop/s in bf16 or fp16 with fp32 accumulation
    fp8: float  # flop/s in FP8, 0: not supported
    link: float  # bytes/s that one GPU sends in one direction inside a node
    tdp: float  # watts
    source: str
    architecture: str
    collective_bandwidth: float = 0.0  # bytes/s of a ring link in a measured all-reduce, 0: unknown
    collective_latency: float = 0.0  # seconds of a ring step in a measured all-reduce, 0: unknown
    price: float = 0.0  # US dollars an hour, 0: unknown


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer: the dimensions that decide its cost. ``models.toml`` maps them to config.json."""

    name: str
    title: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int  # longest prompt + output, tokens
    gated: bool = True  # the MLP has a gate: three matrices instead of two
    tied: bool = False  # the LM head is the embedding
    weight_bytes: float = 2.0  # bytes of a weight
    kv_bytes: float = 2.0  # bytes of an element of the KV cache
    experts: int = 0  # 0: a dense model
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_experts: int = 0
    dense_layers: int = 0  # leading layers without experts
    kv_rank: int = 0  # > 0: multi-head latent attention, elements of the compressed KV
    rope_dim: int = 0
    query_rank: int = 0
    value_dim: int = 0

    @property
    def matrices(self) -> int:
        """Matrices of one MLP or expert."""
        return 3 if self.gated else 2

    @property
    def attention_weights(self) -> int:
        """Weights of the attention projections of one layer."""
        if not self.kv_rank:
            return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        wide = self.heads * (self.head_dim + self.rope_dim)
        query = self.query_rank * (self.hidden + wide) if self.query_rank else self.hidden * wide
        compressed = self.hidden * (self.kv_rank + self.rope_dim)
        expanded = self.kv_rank * self.heads * (self.head_dim + self.value_dim)
        return query + compressed + expanded + self.heads * self.value_dim * self.hidden

    @property
    def dense_mlp_weights(self) -> int:
        """Weights of the MLP of a layer without experts."""
        return self.matrices * self.hidden * self.intermediate

    @property
    def expert_weights(self) -> int:
        """Weights of one routed expert."""
        return self.matrices * self.hidden * self.expert_intermediate

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def parameters(self) -> int:
        """Weights of the whole model (without norms and biases)."""
        moe = (self.experts + self.shared_experts) * self.expert_weights + self.hidden * self.experts
        mlp = (self.layers - self.moe_layers) * self.dense_mlp_weights + self.moe_layers * moe
        vocabulary = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.attention_weights + mlp + vocabulary

    @property
    def kv_width(self) -> int:
        """Elements of the KV cache of one token and one layer, over all GPUs."""
        return self.kv_rank + self.rope_dim if self.kv_rank else 2 * self.kv_heads * self.head_dim


@cache
def gpus() -> dict[str, Gpu]:
    """All known GPUs by name."""
    return {name: Gpu(name=name, **values) for name, values in _load("gpus.toml").items()}


@cache
def models() -> dict[str, Model]:
    """All known models by name."""
    return {name: Model(name=name, **values) for name, values in _load("models.toml").items()}


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def gpu(name: str) -> Gpu:
    """A GPU by name. Raises InputError with the nearest names."""
    try:
        return gpus()[name]
    except KeyError:
        raise InputError(f"gpu '{name}' is not in the catalogue{nearest(name, gpus())}") from None


def model(name: str) -> Model:
    """A model by name. Raises InputError with the nearest names."""
    try:
        return models()[name]
    except KeyError:
        raise InputError(f"model '{name}' is not in the catalogue{nearest(name, models())}") from None


def weight_bytes(model: Model, tp: int = 1) -> float:
    """Bytes of weights on each GPU of a tensor-parallel group."""
    return model.parameters * model.weight_bytes / tp


def kv_bytes_per_token(model: Model, tp: int = 1) -> float:
    """Bytes of KV cache of one token on each GPU.

    KV heads are split over the GPUs; with more GPUs than heads each head is kept several times. Latent attention
    (DeepSeek) has one compressed KV that every GPU keeps whole.
    """
    if model.kv_rank:
        return model.layers * model.kv_width * model.kv_bytes
    return model.layers * 2 * math.ceil(model.kv_heads / tp) * model.head_dim * model.kv_bytes


def check_parallel(model: Model, tp: int) -> None:
    """Raise InputError when a model cannot be split over `tp` GPUs."""
    if tp < 1:
        raise InputError(f"tp: must be at least 1, found {tp}")
    if model.heads % tp:
        raise InputError(f"tp: {model.name} has {model.heads} attention heads, which {tp} GPUs cannot share evenly")


def kv_blocks(
    model: Model,
    gpu: Gpu,
    tp: int = 1,
    block_tokens: int = 16,
    memory_utilisation: float = 0.9,
    reserve: float = 1.15 * GIB,
) -> int:
    """How many KV blocks fit on a replica.

    (memory x utilisation - weights - reserve) / bytes of a block, on each GPU, rounded down. The reserve covers
    activations, CUDA graphs and the runtime; 1.15 GiB is what a vLLM 0.19 run of Llama-3.1-8B on an RTX 4090 left
    out (2,588 blocks at 0.9, LLMServingSim's bench data).

    Args:
        block_tokens: tokens of a block.
        memory_utilisation: share of the board that the server may use, 0 to 1.
        reserve: bytes on each GPU that are neither weights nor KV.

    Raises:
        InputError: when the model does not fit: needed and available GiB.
    """
    check_parallel(model, tp)
    if not 0 < memory_utilisation <= 1:
        raise InputError(f"memory_utilisation: must be above 0 and at most 1, found {memory_utilisation:g}")
    available = gpu.memory * memory_utilisation
    block = kv_bytes_per_token(model, tp) * block_tokens
    needed = weight_bytes(model, tp) + reserve + block
    if needed > available:
        group = f"{tp} x {gpu.name}" if tp > 1 else gpu.name
        raise InputError(
            f"{model.name} does not fit on {group}: each GPU needs {needed / GIB:.1f} GiB "
            f"(weights {weight_bytes(model, tp) / GIB:.1f}, reserve {reserve / GIB:.1f}) "
            f"and has {available / GIB:.1f} GiB; raise tp or choose a larger GPU"
        )
    return int((available - weight_bytes(model, tp) - reserve) // block)

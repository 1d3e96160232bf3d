#!/usr/bin/env python3
"""Convert a Hugging Face DiffusionGemma checkpoint directory to one GGUF file.

Reads config.json, generation_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja and
model.safetensors (or its shards), and writes architecture `diffusion-gemma`. Tensors are memory-mapped and
converted one at a time, so memory stays near the size of the largest tensor, whatever the size of the model.

Needs numpy and gguf; neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gguf import GGMLQuantizationType as QType
from gguf import GGUFWriter, LlamaFileType, TokenType, quants

ARCH = "diffusion-gemma"
FILE_TYPES = {
    "f32": (QType.F32, LlamaFileType.ALL_F32),
    "f16": (QType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (QType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (QType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
Q8_0_BLOCK = 32
QUANTIZATION_VERSION = 2
# Leading-axis slices are converted in pieces of about this many elements, to bound the F32 scratch copy.
SLICE_ELEMENTS = 1 << 24
# A rope frequency factor so large that the angle is zero: the pair passes through unrotated.
NO_ROTATION = 1e30

# Class defaults of the text configuration: save_pretrained may leave such keys out.
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "attention_bias": False,
}
DEFAULT_GLOBAL_HEAD_DIM = 512
DEFAULT_CANVAS_LENGTH = 256
DEFAULT_LAYER_PERIOD = 6  # five sliding layers, then a full one
DEFAULT_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
PER_LAYER_KEYS = {"head_dim", "num_key_value_heads"}


class ConversionError(Exception):
    """The checkpoint cannot be converted; the message names the file and the key or tensor."""


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConversionError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConversionError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: expected a JSON object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# ---------------------------------------------------------------------------------------------- safetensors


def bf16_to_f32(raw: np.ndarray) -> np.ndarray:
    """BF16 bit patterns (u16) to F32: BF16 is the upper half of an F32."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


DTYPES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "F64": ("<f8", lambda a: a.astype(np.float32)),
    "F32": ("<f4", lambda a: a),
    "F16": ("<f2", lambda a: a.astype(np.float32)),
    "BF16": ("<u2", bf16_to_f32),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, mapped but not read."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def raw(self) -> np.ndarray:
        numpy_type = DTYPES[self.dtype][0]
        flat = np.memmap(self.path, dtype=numpy_type, mode="r", offset=self.offset, shape=(math.prod(self.shape),))
        return flat.reshape(self.shape)

    def slices(self) -> Iterator[np.ndarray]:
        """The tensor in F32, cut along its first axis."""
        raw, to_f32 = self.raw(), DTYPES[self.dtype][1]
        step = max(1, SLICE_ELEMENTS * self.shape[0] // max(1, raw.size))
        for start in range(0, self.shape[0], step):
            yield to_f32(np.ascontiguousarray(raw[start : start + step]))


def read_safetensors_header(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file. Layout: u64 header length, JSON header, tensor bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else None
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: {error}") from None
    if not isinstance(header, dict):
        raise ConversionError(f"{path}: not a safetensors file, or truncated")
    for name, info in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise ConversionError(f"{path}: tensor '{name}': malformed header entry") from None
        if dtype not in DTYPES:
            raise ConversionError(f"{path}: tensor '{name}': type {dtype} is not one of {', '.join(DTYPES)}")
        item_size = np.dtype(DTYPES[dtype][0]).itemsize
        if end - begin != math.prod(shape) * item_size or 8 + length + end > size:
            raise ConversionError(f"{path}: tensor '{name}': data is truncated or does not match shape {list(shape)}")
        yield StoredTensor(path, name, dtype, shape, 8 + length + begin)


class Checkpoint:
    """All tensors of a checkpoint by name; `take` also notes what has been used."""

    def __init__(self, directory: Path):
        index = directory / "model.safetensors.index.json"
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ConversionError(f"{index}: key 'weight_map' is missing or empty")
            files = sorted({directory / file for file in weight_map.values()})
        else:
            files = [directory / "model.safetensors"]
        self.source = index if index.exists() else files[0]
        self.tensors = {tensor.name: tensor for file in files for tensor in read_safetensors_header(file)}
        self.used: set[str] = set()

    def take(self, names: list[str], shape: tuple[int, ...]) -> StoredTensor:
        """The first of `names` that exists; the others, if present, must be tied copies of it."""
        found = [self.tensors[name] for name in names if name in self.tensors]
        if not found:
            raise ConversionError(f"{self.source}: tensor '{names[0]}' is missing")
        first = found[0]
        for tensor in found:
            if tensor.shape != shape:
                raise ConversionError(
                    f"{tensor.path}: tensor '{tensor.name}' has shape {list(tensor.shape)}, "
                    f"config.json says {list(shape)}"
                )
            if tensor is not first and not np.array_equal(tensor.raw(), first.raw()):
                raise ConversionError(
                    f"{tensor.path}: tensor '{tensor.name}' differs from '{first.name}', but the two must be tied"
                )
            self.used.add(tensor.name)
        return first


# --------------------------------------------------------------------------------------------------- config


class Config:
    """The text configuration, with class defaults filled in and both spellings of per-layer geometry resolved."""

    def __init__(self, path: Path):
        root = read_json(path)
        self.path = path
        if root.get("model_type") != "diffusion_gemma":
            raise ConversionError(f"{path}: key 'model_type' is {root.get('model_type')!r}, expected 'diffusion_gemma'")
        text = root.get("text_config")
        if not isinstance(text, dict):
            raise ConversionError(f"{path}: key 'text_config' is missing")
        self.text = text
        for scope in (root, text):
            if scope.get("tie_word_embeddings") is False:
                raise ConversionError(
                    f"{path}: key 'tie_word_embeddings' is false: encoder and decoder weights are then separate, "
                    f"which the {ARCH} format cannot hold"
                )
        self.canvas_length = self._positive(root, "canvas_length", DEFAULT_CANVAS_LENGTH)
        self.vocab_size = self._size("vocab_size")
        self.hidden_size = self._size("hidden_size")
        self.intermediate_size = self._size("intermediate_size")
        self.num_hidden_layers = self._size("num_hidden_layers")
        self.num_attention_heads = self._size("num_attention_heads")
        self.max_position_embeddings = self._size("max_position_embeddings")
        self.sliding_window = self._size("sliding_window")
        self.num_experts = self._size("num_experts")
        self.top_k_experts = self._size("top_k_experts")
        self.moe_intermediate_size = self._size("moe_intermediate_size")
        if self.top_k_experts > self.num_experts:
            raise self._error("top_k_experts", f"{self.top_k_experts} exceeds num_experts {self.num_experts}")
        self.rms_norm_eps = self._number("rms_norm_eps")
        self.final_logit_softcapping = self._number("final_logit_softcapping")
        self._require("hidden_activation", "gelu_pytorch_tanh")
        self._require("attention_bias", False)
        if text.get("use_bidirectional_attention") not in (None, "vision"):
            raise self._error(
                "use_bidirectional_attention", f"{text['use_bidirectional_attention']!r} is not supported"
            )
        self.sliding = self._layer_pattern()
        self._head_geometry()
        self._rope()

    def _error(self, key: str, problem: str) -> ConversionError:
        return ConversionError(f"{self.path}: key 'text_config.{key}': {problem}")

    def _get(self, key: str) -> Any:
        value = self.text.get(key)
        return TEXT_DEFAULTS[key] if value is None else value

    def _require(self, key: str, expected: Any) -> None:
        if self._get(key) != expected:
            raise self._error(key, f"{self._get(key)!r} is not supported, only {expected!r}")

    def _size(self, key: str) -> int:
        return self._positive(self.text, key, TEXT_DEFAULTS.get(key))

    def _positive(self, scope: dict[str, Any], key: str, default: int | None) -> int:
        value = scope.get(key)
        value = default if value is None else value
        if not is_integer(value) or not 0 < value < 2**31:
            problem = "missing" if value is None else f"{value!r} is not a positive integer"
            raise ConversionError(f"{self.path}: key '{key}': {problem}")
        return value

    def _number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self._error(key, f"{value!r} is not a positive number")
        return float(value)

    def _layer_pattern(self) -> list[bool]:
        """For each layer, whether it attends in a sliding window."""
        count, types = self.num_hidden_layers, self.text.get("layer_types")
        if types is None:
            types = [
                "full_attention" if (layer + 1) % DEFAULT_LAYER_PERIOD == 0 else "sliding_attention"
                for layer in range(count)
            ]
        if len(types) != count:
            raise self._error("layer_types", f"has {len(types)} entries for {count} layers")
        unknown = set(types) - set(DEFAULT_ROPE)
        if unknown:
            raise self._error("layer_types", f"unknown type {sorted(unknown)[0]!r}")
        # The reference forces the last layer to full attention, whatever the list says.
        return [kind == "sliding_attention" for kind in types[:-1]] + [False]

    def _head_geometry(self) -> None:
        """Head sizes and KV heads per layer, from `per_layer_config` or from the older `global_*` keys."""
        head_dim = self._size("head_dim")
        kv_heads = self._size("num_key_value_heads")
        overrides = self.text.get("per_layer_config")
        if overrides is None:
            full = {
                "head_dim": self._positive(self.text, "global_head_dim", DEFAULT_GLOBAL_HEAD_DIM),
                "num_key_value_heads": self._positive(self.text, "num_global_key_value_heads", kv_heads),
            }
            by_layer = {layer: full for layer, sliding in enumerate(self.sliding) if not sliding}
        else:
            try:  # the keys are strings, zero-padded from ten layers on
                by_layer = {int(layer): dict(values) for layer, values in overrides.items()}
            except (AttributeError, TypeError, ValueError):
                raise self._error("per_layer_config", "expected an object of layer number to object") from None
        self.head_dims, self.kv_heads = [], []
        for layer in range(self.num_hidden_layers):
            values = by_layer.get(layer, {})
            unknown = set(values) - PER_LAYER_KEYS
            if unknown:
                raise self._error(f"per_layer_config.{layer}", f"overriding {sorted(unknown)[0]!r} is not supported")
            self.head_dims.append(self._positive(values, "head_dim", head_dim))
            self.kv_heads.append(self._positive(values, "num_key_value_heads", kv_heads))
            if self.num_attention_heads % self.kv_heads[-1]:
                problem = f"{self.num_attention_heads} heads are not a multiple of {self.kv_heads[-1]} KV heads"
                raise self._error(f"per_layer_config.{layer}", problem)
        self.head_dim_swa = self._common_head_dim(True, head_dim)
        self.head_dim_full = self._common_head_dim(False, DEFAULT_GLOBAL_HEAD_DIM)

    def _common_head_dim(self, sliding: bool, default: int) -> int:
        """The one head size of all layers of a kind; the format has no per-layer head size."""
        sizes = {size for size, kind in zip(self.head_dims, self.sliding, strict=True) if kind == sliding}
        if len(sizes) > 1:
            kind = "sliding" if sliding else "full"
            raise self._error("per_layer_config", f"{kind}-attention layers differ in head_dim: {sorted(sizes)}")
        return sizes.pop() if sizes else default

    def _rope(self) -> None:
        parameters = self.text.get("rope_parameters") or DEFAULT_ROPE
        rope = {kind: parameters.get(kind) or default for kind, default in DEFAULT_ROPE.items()}
        swa, full = rope["sliding_attention"], rope["full_attention"]
        if swa.get("rope_type", "default") != "default" or swa.get("partial_rotary_factor", 1.0) != 1.0:
            raise self._error("rope_parameters.sliding_attention", "only plain rope (rope_type 'default') is supported")
        if full.get("rope_type") != "proportional":
            raise self._error("rope_parameters.full_attention", "only rope_type 'proportional' is supported")
        try:
            self.rope_theta_swa, self.rope_theta = float(swa["rope_theta"]), float(full["rope_theta"])
        except KeyError:
            raise self._error("rope_parameters", "rope_theta is missing") from None
        # The first `rotated` of head_dim/2 pairs rotate (slowed by the optional `factor`), the others do not.
        half = self.head_dim_full // 2
        rotated = int(full.get("partial_rotary_factor", 1.0) * self.head_dim_full // 2)
        self.rope_freqs = np.full(half, NO_ROTATION, dtype=np.float32)
        self.rope_freqs[:rotated] = full.get("factor", 1.0)


# -------------------------------------------------------------------------------------------------- tensors


@dataclass(frozen=True)
class Spec:
    """One tensor of the GGUF: where it comes from and how it is stored."""

    gguf_name: str
    sources: list[str]
    shape: tuple[int, ...]
    full_precision: bool = False


DECODER = "model.decoder."
ENCODER = "model.encoder.language_model."
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")


def shared(gguf_name: str, name: str, *shape: int, f32: bool = False) -> Spec:
    """A tensor that encoder and decoder share: checkpoints store it under either name, or both."""
    return Spec(gguf_name, [DECODER + name, ENCODER + name], shape, f32)


def expected_tensors(config: Config) -> list[Spec]:
    """The complete list of tensors of the format, in file order (shapes as in PyTorch, slowest axis first)."""
    d, f = config.hidden_size, config.intermediate_size
    embedding = [DECODER + "embed_tokens.weight", ENCODER + "embed_tokens.weight", "lm_head.weight"]
    return [
        Spec("token_embd.weight", embedding, (config.vocab_size, d)),
        shared("output_norm.weight", "norm.weight", d),
        Spec("self_cond_pre_norm.weight", [DECODER + "self_conditioning.pre_norm.weight"], (d,)),
        Spec("self_cond_gate.weight", [DECODER + "self_conditioning.gate_proj.weight"], (f, d)),
        Spec("self_cond_up.weight", [DECODER + "self_conditioning.up_proj.weight"], (f, d)),
        Spec("self_cond_down.weight", [DECODER + "self_conditioning.down_proj.weight"], (d, f)),
        *(spec for layer in range(config.num_hidden_layers) for spec in block_tensors(config, layer)),
    ]


def block_tensors(config: Config, layer: int) -> list[Spec]:
    d, f, e, i = config.hidden_size, config.intermediate_size, config.num_experts, config.moe_intermediate_size
    hd = config.head_dims[layer]
    q, kv = config.num_attention_heads * hd, config.kv_heads[layer] * hd

    def block(gguf_name: str, name: str, *shape: int, f32: bool = False) -> Spec:
        return shared(f"blk.{layer}.{gguf_name}", f"layers.{layer}.{name}", *shape, f32=f32)

    # In full attention the values are the raw keys.
    value = [block("attn_v.weight", "self_attn.v_proj.weight", kv, d)] if config.sliding[layer] else []
    scalar = f"layers.{layer}.layer_scalar"
    return [
        block("attn_norm.weight", "input_layernorm.weight", d),
        block("attn_q.weight", "self_attn.q_proj.weight", q, d),
        block("attn_k.weight", "self_attn.k_proj.weight", kv, d),
        *value,
        block("attn_output.weight", "self_attn.o_proj.weight", d, q),
        block("attn_q_norm.weight", "self_attn.q_norm.weight", hd),
        block("attn_k_norm.weight", "self_attn.k_norm.weight", hd),
        block("post_attention_norm.weight", "post_attention_layernorm.weight", d),
        block("ffn_norm.weight", "pre_feedforward_layernorm.weight", d),
        block("ffn_gate.weight", "mlp.gate_proj.weight", f, d),
        block("ffn_up.weight", "mlp.up_proj.weight", f, d),
        block("ffn_down.weight", "mlp.down_proj.weight", d, f),
        block("post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight", d),
        block("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight", d),
        # A near-tie of router scores decides which experts run: never store the router below F32.
        block("ffn_gate_inp.weight", "router.proj.weight", e, d, f32=True),
        block("ffn_gate_inp.scale", "router.scale", d),
        block("ffn_gate_up_exps.weight", "experts.gate_up_proj", e, 2 * i, d),
        block("ffn_down_exps.weight", "experts.down_proj", e, d, i),
        block("ffn_down_exps.scale", "router.per_expert_scale", e),
        block("post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight", d),
        block("post_ffw_norm.weight", "post_feedforward_layernorm.weight", d),
        # The only weights that encoder and decoder do not share.
        Spec(f"blk.{layer}.layer_output_scale.weight", [DECODER + scalar], (1,)),
        Spec(f"blk.{layer}.enc_layer_output_scale.weight", [ENCODER + scalar], (1,)),
    ]


def storage_type(spec: Spec, wanted: QType) -> QType:
    """Vectors and the router stay F32; rows that Q8_0 blocks cannot tile stay F16."""
    if len(spec.shape) == 1 or spec.full_precision:
        return QType.F32
    if wanted == QType.Q8_0 and spec.shape[-1] % Q8_0_BLOCK:
        return QType.F16
    return wanted


def stored_layout(spec: Spec, qtype: QType) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that holds the tensor: floats, or bytes for BF16 and Q8_0."""
    if qtype in (QType.F32, QType.F16):
        return spec.shape, np.dtype(np.float32 if qtype == QType.F32 else np.float16)
    return quants.quant_shape_to_byte_shape(spec.shape, qtype), np.dtype(np.uint8)


def encode(spec: Spec, tensor: StoredTensor, qtype: QType) -> np.ndarray:
    """The tensor's values in `qtype`."""
    encoded = np.empty(*stored_layout(spec, qtype))
    start = 0
    for part in tensor.slices():
        if not np.isfinite(part).all():
            raise ConversionError(f"{tensor.path}: tensor '{tensor.name}' holds NaN or infinite values")
        rows = encoded[start : start + len(part)]
        with np.errstate(over="ignore"):
            rows[:] = quants.quantize(part, qtype)
        if qtype == QType.F16 and not np.isfinite(rows).all():
            raise ConversionError(
                f"{tensor.path}: tensor '{tensor.name}' exceeds the range of F16: use --outtype bf16 or f32"
            )
        start += len(part)
    return encoded


# ------------------------------------------------------------------------------------------------- metadata


def add_hyperparameters(writer: GGUFWriter, config: Config, embedding_dtype: str) -> None:
    def key(name: str) -> str:
        return f"{ARCH}.{name}"

    for name, value in {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.key_length": config.head_dim_full,
        "attention.value_length": config.head_dim_full,
        "attention.key_length_swa": config.head_dim_swa,
        "attention.value_length_swa": config.head_dim_swa,
        "attention.sliding_window": config.sliding_window,
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": 0,
        "rope.dimension_count": config.head_dim_full,
        "rope.dimension_count_swa": config.head_dim_swa,
        "expert_count": config.num_experts,
        "expert_used_count": config.top_k_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }.items():
        writer.add_uint32(key(name), value)
    for name, number in {
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
        "rope.freq_base_swa": config.rope_theta_swa,
        "final_logit_softcapping": config.final_logit_softcapping,
        "embedding_scale": embedding_scale(config.hidden_size, embedding_dtype),
    }.items():
        writer.add_float32(key(name), number)
    writer.add_array(key("attention.head_count_kv"), config.kv_heads)
    writer.add_array(key("attention.sliding_window_pattern"), config.sliding)
    writer.add_bool(key("attention.causal"), False)
    writer.add_uint32("diffusion.canvas_length", config.canvas_length)


def embedding_scale(hidden_size: int, dtype: str) -> float:
    """sqrt(hidden_size), rounded to the checkpoint's dtype as the reference does (BF16: 53.0 for 2816)."""
    scale = np.array([math.sqrt(hidden_size)], dtype=np.float32)
    if dtype == "BF16":
        scale = quants.dequantize(quants.quantize(scale, QType.BF16), QType.BF16)
    elif dtype == "F16":
        scale = scale.astype(np.float16)
    return float(scale[0])


class GenerationConfig:
    """generation_config.json; null means unset there, and unset keys are left out of the GGUF."""

    # key here -> (key in the GGUF, is it an integer)
    SAMPLER_KEYS: ClassVar[dict[str, tuple[str, bool]]] = {
        "max_denoising_steps": ("eb_max_steps", True),
        "t_min": ("eb_t_min", False),
        "t_max": ("eb_t_max", False),
        "entropy_bound": ("eb_entropy_bound", False),
        "stability_threshold": ("eb_stability_threshold", True),
        "confidence_threshold": ("eb_confidence_threshold", False),
    }

    def __init__(self, path: Path):
        self.path = path
        self.values = {key: value for key, value in read_optional_json(path).items() if value is not None}
        sampler = self.values.pop("sampler_config", {})
        if not isinstance(sampler, dict):
            raise ConversionError(f"{path}: key 'sampler_config': expected an object")
        if sampler.get("entropy_bound") is not None:
            self.values["entropy_bound"] = sampler["entropy_bound"]

    def token_ids(self, key: str, vocab_size: int) -> list[int]:
        """A token id or a list of them, as a list; empty when unset."""
        value = self.values.get(key, [])
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if not is_integer(token) or not 0 <= token < vocab_size:
                raise ConversionError(f"{self.path}: key '{key}': {token!r} is not a token id below {vocab_size}")
        return ids

    def add_sampler(self, writer: GGUFWriter) -> None:
        for key, (gguf_key, integer) in self.SAMPLER_KEYS.items():
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)) or value < 0:
                kind = "a non-negative integer" if integer else "a non-negative number"
                raise ConversionError(f"{self.path}: key '{key}': {value!r} is not {kind}")
            if integer:
                writer.add_uint32(f"diffusion.{gguf_key}", value)
            else:
                writer.add_float32(f"diffusion.{gguf_key}", float(value))


class Tokenizer:
    """tokenizer.json and tokenizer_config.json as a `gemma4` vocabulary: BPE, U+2581 for space, byte fallback."""

    END_OF_TURN = "<turn|>"

    def __init__(self, directory: Path, vocab_size: int):
        self.path = directory / "tokenizer.json"
        if not self.path.exists():
            raise ConversionError(f"{self.path}: no such file; --no-tokenizer converts without a vocabulary")
        tokenizer = read_json(self.path)
        self.config = read_optional_json(directory / "tokenizer_config.json")
        self.chat_template = self._chat_template(directory)
        model = tokenizer.get("model") or {}
        if model.get("type") != "BPE" or not model.get("byte_fallback"):
            raise ConversionError(f"{self.path}: key 'model': expected BPE with byte_fallback")
        try:
            added = {token["content"]: token for token in tokenizer["added_tokens"]}
            self.ids: dict[str, int] = {**model["vocab"], **{text: token["id"] for text, token in added.items()}}
            self.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
            texts: dict[int, str] = {int(token): text for text, token in self.ids.items()}
        except KeyError as error:
            raise ConversionError(f"{self.path}: key {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise ConversionError(f"{self.path}: {error}") from None
        if len(texts) != len(self.ids):
            raise ConversionError(f"{self.path}: two tokens share one id")
        if not texts or not 0 <= min(texts) <= max(texts) < vocab_size:
            raise ConversionError(f"{self.path}: token ids must lie below vocab_size {vocab_size} of config.json")
        special = {text for text, token in added.items() if token.get("special")} | self._configured_special_tokens()
        # Ids that the model has but the tokenizer lacks still need a distinct text.
        self.tokens = [texts.get(token, f"[PAD{token}]") for token in range(vocab_size)]
        self.types = [self._type(texts.get(token), special, added) for token in range(vocab_size)]

    @staticmethod
    def _type(text: str | None, special: set[str], added: dict[str, Any]) -> TokenType:
        if text is None:
            return TokenType.UNUSED
        if text in special:
            return TokenType.CONTROL
        if text in added:
            return TokenType.USER_DEFINED
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return TokenType.BYTE
        return TokenType.NORMAL

    @staticmethod
    def _text(token: Any) -> str | None:
        """A special token is written as a string or as an object with `content`."""
        return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None

    def _configured_special_tokens(self) -> set[str]:
        """Every token that tokenizer_config.json names: `*_token` keys, lists, and model-specific tables."""
        values = [value for key, value in self.config.items() if key.endswith("_token")]
        for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
            group = self.config.get(key) or []
            values += group.values() if isinstance(group, dict) else group
        values += [token for token in (self.config.get("added_tokens_decoder") or {}).values() if token.get("special")]
        return {text for text in map(self._text, values) if text in self.ids}

    def _chat_template(self, directory: Path) -> str | None:
        jinja = directory / "chat_template.jinja"
        if jinja.exists():
            return jinja.read_text(encoding="utf-8")
        template = self.config.get("chat_template")
        if isinstance(template, list):  # several named templates
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return template

    def id_of(self, name: str) -> int | None:
        return self.ids.get(self._text(self.config.get(name)) or "")

    def add(self, writer: GGUFWriter, generation: GenerationConfig) -> None:
        vocab_size = len(self.tokens)
        writer.add_tokenizer_model("gemma4")
        writer.add_token_list(self.tokens)
        # BPE ranks by merges and never reads the scores, but readers expect the array.
        writer.add_token_scores([0.0] * vocab_size)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, add in {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "unk": writer.add_unk_token_id,
            "pad": writer.add_pad_token_id,
            "mask": writer.add_mask_token_id,
        }.items():
            configured = generation.token_ids(f"{name}_token_id", vocab_size)
            token = configured[0] if configured else self.id_of(f"{name}_token")
            if token is not None:
                add(token)
        if self.END_OF_TURN in self.ids:
            writer.add_eot_token_id(self.ids[self.END_OF_TURN])
        writer.add_add_bos_token(bool(self.config.get("add_bos_token", True)))
        writer.add_add_space_prefix(False)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


# ----------------------------------------------------------------------------------------------- conversion


def convert(directory: Path, outfile: Path, outtype: str, *, tokenizer: bool = True, name: str | None = None) -> None:
    """Write the checkpoint in `directory` to `outfile`; raises ConversionError. Notes go to stderr."""
    if not directory.is_dir():
        raise ConversionError(f"{directory}: no such directory")
    wanted, file_type = FILE_TYPES[outtype]
    config = Config(directory / "config.json")
    generation = GenerationConfig(directory / "generation_config.json")
    vocabulary = Tokenizer(directory, config.vocab_size) if tokenizer else None
    checkpoint = Checkpoint(directory)
    specs = expected_tensors(config)
    tensors = [(spec, checkpoint.take(spec.sources, spec.shape)) for spec in specs]

    vision = [tensor for tensor in checkpoint.tensors if tensor.startswith(VISION)]
    unknown = sorted(set(checkpoint.tensors) - checkpoint.used - set(vision))
    if unknown:
        raise ConversionError(f"{checkpoint.tensors[unknown[0]].path}: tensor '{unknown[0]}' is not known")
    if vision:
        note(f"skipping {len(vision)} vision tensors: the format holds the text model only")
    kept = [spec.gguf_name for spec in specs if wanted == QType.Q8_0 and storage_type(spec, wanted) == QType.F16]
    if kept:
        note(f"{len(kept)} tensors stay F16: their rows are not a multiple of {Q8_0_BLOCK} ({kept[0]} …)")

    partial = outfile.with_name(outfile.name + ".partial")
    writer = GGUFWriter(partial, ARCH)
    try:
        writer.add_type("model")
        writer.add_name(name or directory.resolve().name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(QUANTIZATION_VERSION)
        add_hyperparameters(writer, config, tensors[0][1].dtype)
        generation.add_sampler(writer)
        end_tokens = generation.token_ids("eos_token_id", config.vocab_size)
        if end_tokens:
            writer.add_array("diffusion.eos_token_ids", end_tokens)
        if vocabulary:
            vocabulary.add(writer, generation)
        write_tensors(writer, config, tensors, wanted)
        writer.close()
        os.replace(partial, outfile)
    except OSError as error:
        raise ConversionError(f"{outfile}: {error.strerror or error}") from None
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def write_tensors(writer: GGUFWriter, config: Config, tensors: list[tuple[Spec, StoredTensor]], wanted: QType) -> None:
    """Announce all tensors first, as the file format requires, then convert and write them one by one."""
    writer.add_tensor_info("rope_freqs.weight", config.rope_freqs.shape, np.dtype(np.float32), config.rope_freqs.nbytes)
    for spec, _ in tensors:
        qtype = storage_type(spec, wanted)
        shape, dtype = stored_layout(spec, qtype)
        writer.add_tensor_info(spec.gguf_name, shape, dtype, math.prod(shape) * dtype.itemsize, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_tensor_data(config.rope_freqs)
    for spec, tensor in tensors:
        writer.write_tensor_data(encode(spec, tensor, storage_type(spec, wanted)))


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert a Hugging Face DiffusionGemma checkpoint to GGUF.")
    parser.add_argument("model", type=Path, metavar="DIR", help="checkpoint directory")
    parser.add_argument("--outfile", type=Path, required=True, metavar="FILE", help="GGUF file to write")
    parser.add_argument(
        "--outtype",
        choices=FILE_TYPES,
        default="f16",
        help="type of the matrices (default: %(default)s); norms, scalars, scales and the router are always F32, "
        "and under q8_0 rows that are not a multiple of 32 stay F16",
    )
    parser.add_argument("--name", help="general.name of the model (default: the directory's name)")
    parser.add_argument("--no-tokenizer", action="store_true", help="write no vocabulary (for tests on token ids)")
    args = parser.parse_args()
    try:
        convert(args.model, args.outfile, args.outtype, tokenizer=not args.no_tokenizer, name=args.name)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.outfile}: {args.outfile.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Record a golden case: a small random DiffusionGemma, and what Hugging Face transformers computes with it.

    make_golden.py --config CONFIG.json --seed 0 --out DIR

The files written to DIR are described in tests/golden/README.md. The oracle is transformers' own model and its own
`generate()`; only its random draws are replaced by recorded ones. Draws that would lead to a near-tie (two experts,
two tokens or an acceptance that F32 rounding could swap) are drawn again, so that every correct F32 engine must
reproduce each decision.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache
from transformers.models.diffusion_gemma import generation_diffusion_gemma as reference

from convert_hf_to_gguf import ConversionError, convert

FORMAT = 1
# Generations started before giving up; all but one block of each are as in the one before.
ATTEMPTS = 50
# Draws of one canvas of a generation before its block is started again.
REDRAWS = 100
# Draws of the canvas of a single forward, of which the one with the clearest routing is kept.
SETTLE_DRAWS = 100
SELF_CONDITIONING_TEMPERATURE = 0.7
# Relative change of every weight in the replay that proves a case robust; an F32 engine errs by less.
PERTURBATION = 1e-6
# transformers would otherwise build the full vision tower.
TINY_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 16,
    "position_embedding_size": 64,
}


class ConfigError(Exception):
    """CONFIG.json cannot be used; the message names the key."""


class NearTie(Exception):
    """A decision is too close to be reproduced by another F32 implementation; `block` must be drawn again."""

    def __init__(self, what: str, block: int):
        super().__init__(f"block {block}: {what}")
        self.block = block


# -------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Margins:
    """Smallest distances to a tie that a case may contain."""

    argmax: float = 5e-4  # top-1 minus top-2 of logits / temperature
    router: float = 3e-5  # last selected minus first rejected router score
    static_router: float = 5e-3  # the same in the single forwards, which are also compared in F16; canvases: a wish
    accept: float = 1e-3  # distance of a cumulative entropy to the bound, relative to the bound
    confidence: float = 2e-3  # distance of the mean entropy to its threshold, relative to the threshold
    cdf: float = 1e-3  # distance of a draw to its bin's edges, where the bins are wide enough


@dataclass(frozen=True)
class Weights:
    """Shape of the random weights. The defaults keep nets of any size well conditioned."""

    branch: float = 0.7  # size of all residual branches together, relative to the embedding
    self_conditioning: float = 0.3  # size of the self-conditioning signal
    attention_gain: float = 1.5  # standard deviation of attention scores
    router_gain: float = 2.0  # standard deviation of router scores
    logit_gain: float = 1.2  # standard deviation of logits, in units of sqrt(2 ln V)
    own_logit: float = 1.0  # logit of a position's own input token, relative to the largest other logit


@dataclass
class Case:
    """A parsed CONFIG.json."""

    text: dict[str, Any]
    canvas_length: int
    prompt_length: int
    generation: dict[str, Any]
    weights: Weights
    auto_eos: bool
    pins: list[dict[int, int]]  # per canvas: position to token

    @classmethod
    def read(cls, path: Path) -> Case:
        try:
            root = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from None
        if not isinstance(root, dict):
            raise ConfigError("expected a JSON object")
        unknown = set(root) - {"text", "canvas_length", "prompt_length", "generation", "weights", "eos", "pins"}
        if unknown:
            raise ConfigError(f"unknown key '{sorted(unknown)[0]}'")
        for key in ("text", "generation", "weights"):
            if not isinstance(root.get(key, {}), dict):
                raise ConfigError(f"key '{key}': expected an object")
        for key in ("canvas_length", "prompt_length"):
            if not isinstance(root.get(key), int) or root[key] <= 0:
                raise ConfigError(f"key '{key}': expected a positive integer")
        text, weights = root.get("text", {}), root.get("weights", {})
        for key in ("num_experts", "top_k_experts", "moe_intermediate_size"):
            if text.get(key) is None:
                raise ConfigError(f"key 'text.{key}' is missing")
        if text["top_k_experts"] > text["num_experts"]:
            raise ConfigError(f"key 'text.top_k_experts' exceeds num_experts {text['num_experts']}")
        unknown = set(weights) - {field.name for field in fields(Weights)}
        if unknown:
            raise ConfigError(f"unknown key 'weights.{sorted(unknown)[0]}'")
        if root.get("eos") not in (None, "auto"):
            raise ConfigError("key 'eos': only \"auto\" is known; put token ids in generation.eos_token_id")
        return cls(
            text,
            root["canvas_length"],
            root["prompt_length"],
            root.get("generation", {}),
            Weights(**weights),
            root.get("eos") == "auto",
            [cls._read_pins(pins, root["canvas_length"]) for pins in root.get("pins", [])],
        )

    @staticmethod
    def _read_pins(pins: Any, canvas_length: int) -> dict[int, int]:
        """The pins of one canvas, `[[position, token], ...]`; at least one position stays free."""
        try:
            read = {int(position): int(token) for position, token in pins}
        except (TypeError, ValueError):
            raise ConfigError("key 'pins': expected a list of [position, token] per canvas") from None
        if not all(0 <= position < canvas_length for position in read):
            raise ConfigError(f"key 'pins': positions are 0 to {canvas_length - 1}")
        if len(read) == canvas_length:
            raise ConfigError("key 'pins': a canvas needs a free position")
        return read

    def generation_config(self) -> reference.DiffusionGemmaGenerationConfig:
        """The reference's generation config: `entropy_bound` wrapped, whole numbers accepted for floats."""
        values = dict(self.generation)
        if "max_length" in values:
            raise ConfigError("key 'generation.max_length' is not supported: use max_new_tokens")
        try:
            for key in ("entropy_bound", "t_min", "t_max", "confidence_threshold"):
                if values.get(key) is not None:
                    values[key] = float(values[key])
            bound = values.pop("entropy_bound", None)
            if bound is not None:
                values["sampler_config"] = reference.EntropyBoundSamplerConfig(entropy_bound=bound)
            values.setdefault("pad_token_id", self.text.get("pad_token_id", 0))
            return reference.DiffusionGemmaGenerationConfig(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"key 'generation': {error}") from None


# --------------------------------------------------------------------------------------------------- weights


def build_model(case: Case, seed: int) -> DiffusionGemmaForBlockDiffusion:
    """A random F32 model.

    Untamed random nets are chaotic: routers and sharp attention flip on rounding errors, and self-conditioning
    amplifies an error at every step. Here the embedding has unit size, all residual branches together stay smaller
    than it whatever the depth, and the layer scalars multiply to about one.
    """
    try:
        config = DiffusionGemmaConfig(
            text_config=copy.deepcopy(case.text), vision_config=dict(TINY_VISION), canvas_length=case.canvas_length
        )
        model = DiffusionGemmaForBlockDiffusion._from_config(
            config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
        ).eval()
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise ConfigError(f"key 'text': {error}") from None
    weights, rng = case.weights, torch.Generator().manual_seed(seed)
    decoder, encoder = model.model.decoder, model.model.encoder.language_model
    hidden, layers = config.text_config.hidden_size, config.text_config.num_hidden_layers
    branch = weights.branch / math.sqrt(2 * layers)

    def normal(tensor: torch.Tensor, mean: float, std: float) -> None:
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=rng))

    with torch.no_grad():
        for name, tensor in decoder.named_parameters():
            if name == "embed_tokens.weight":
                normal(tensor, 0.0, hidden**-0.5)  # unit size after the embedding scale
            elif name.endswith("router.scale"):
                normal(tensor, 1.0, 0.2)
                tensor.mul_(weights.router_gain * math.sqrt(hidden))  # undoes the router's own d^(-1/2)
            elif name.endswith("per_expert_scale"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
            elif tensor.dim() > 1:
                normal(tensor, 0.0, tensor.shape[-1] ** -0.5)
                if name == "self_conditioning.down_proj.weight":
                    tensor.mul_(weights.self_conditioning)
            else:
                normal(tensor, 1.0, 0.2)
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    # Attention is unscaled: its scores have the standard deviation |q||k|/sqrt(head_dim).
                    tensor.mul_(math.sqrt(weights.attention_gain) * tensor.numel() ** -0.25)
                elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                    tensor.mul_(branch)
        decoder.norm.weight.copy_(output_norm(config.text_config, weights, rng))
        for side, sign in ((decoder, 1.0), (encoder, -1.0)):
            for layer, scalar in enumerate(layer_scalars(layers, sign, rng)):
                side.layers[layer].layer_scalar.fill_(scalar)
    return model


def layer_scalars(layers: int, sign: float, rng: torch.Generator) -> torch.Tensor:
    """Scalars whose running product stays within exp(±0.4), so that no depth blows the residual stream up.

    They are above and below one in turn; with the other `sign` all of them are on the other side.
    """
    product = sign * torch.empty(layers).uniform_(0.15, 0.4, generator=rng) * (-1.0) ** torch.arange(layers)
    return torch.diff(product, prepend=torch.zeros(1)).exp()


def output_norm(text: Any, weights: Weights, rng: torch.Generator) -> torch.Tensor:
    """Final norm weights of mixed sign.

    With a tied head and all weights positive a random net returns its input token with near certainty. Flipping signs
    brings that token's logit down to the size of the largest of the V random ones, which makes denoising interesting:
    some positions settle, others move.
    """
    hidden, largest = text.hidden_size, math.sqrt(2 * math.log(text.vocab_size))
    correlation = min(1.0, weights.own_logit * largest / math.sqrt(hidden))
    positive = round(hidden * (1 + correlation) / 2)
    signs = torch.ones(hidden)
    signs[torch.randperm(hidden, generator=rng)[positive:]] = -1.0
    gain = min(weights.logit_gain * largest, 0.3 * text.final_logit_softcapping)
    return gain * signs * (1 + 0.2 * torch.randn(hidden, generator=rng))


@contextlib.contextmanager
def perturbed(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Changes every weight by a random relative PERTURBATION for a while."""
    rng = torch.Generator().manual_seed(seed)
    saved = [(tensor, tensor.detach().clone()) for tensor in model.parameters()]
    with torch.no_grad():
        for tensor, _ in saved:
            tensor.mul_(1 + PERTURBATION * torch.randn(tensor.shape, generator=rng))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)


# ----------------------------------------------------------------------------------------------- observation


class RouterProbe:
    """Watches all routers: `take` gives the smallest margin per position since the last `clear`."""

    def __init__(self, model: DiffusionGemmaForBlockDiffusion):
        self.experts = model.config.text_config.num_experts
        self.selected = model.config.text_config.top_k_experts
        self.margins: list[torch.Tensor] = []
        for name, module in model.named_modules():
            if name.endswith(".router"):
                module.register_forward_hook(self._observe)

    def _observe(self, module: torch.nn.Module, inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        probabilities = output[0]
        if self.selected == self.experts:
            margin = torch.full(probabilities.shape[:-1], math.inf)
        else:  # differences of log-probabilities are differences of scores
            scores = probabilities.log().topk(self.selected + 1, dim=-1).values
            margin = scores[..., -2] - scores[..., -1]
        self.margins.append(margin.flatten())

    def clear(self) -> None:
        self.margins = []

    def take(self) -> torch.Tensor:
        margins = torch.stack(self.margins).min(dim=0).values
        self.clear()
        return margins


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


# ------------------------------------------------------------------------------------------- single forwards


class Forwards:
    """Prefill and two decoder forwards, on tokens whose routing is nowhere close."""

    def __init__(self, model: DiffusionGemmaForBlockDiffusion, probe: RouterProbe, margin: float):
        self.model, self.probe, self.margin = model, probe, margin
        self.vocab = model.config.text_config.vocab_size
        self.smallest_router = math.inf

    def record(self, rng: np.random.Generator, prompt_length: int) -> dict[str, np.ndarray]:
        prompt = self._settle_prompt(rng, prompt_length)
        cache = self._windowed_cache(prompt)
        canvas0 = self._settle_canvas(rng, cache, None)
        scaled = self._decode(cache, canvas0, None) / SELF_CONDITIONING_TEMPERATURE
        canvas1 = self._settle_canvas(rng, cache, scaled)
        return self.compute(
            {
                "prompt": prompt[0].numpy().astype(np.int32),
                "decode0.canvas": canvas0[0].numpy().astype(np.int32),
                "decode1.canvas": canvas1[0].numpy().astype(np.int32),
            }
        )

    @torch.no_grad()
    def compute(self, tokens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All tensors of the single forwards from their three token arrays."""
        names = ("prompt", "decode0.canvas", "decode1.canvas")
        prompt, canvas0, canvas1 = (torch.from_numpy(tokens[name]).long()[None] for name in names)
        trace = {name: tokens[name] for name in names}
        everything = DynamicCache()  # without a config no layer forgets what left its window
        hidden = self.model.model.encoder(input_ids=prompt, past_key_values=everything).last_hidden_state
        for layer, kv in enumerate(everything.layers):
            trace[f"prefill.k.{layer}"] = kv.keys[0].transpose(0, 1).contiguous().numpy()
            trace[f"prefill.v.{layer}"] = kv.values[0].transpose(0, 1).contiguous().numpy()
        cap = self.model.final_logit_softcapping
        trace["prefill.logits"] = (torch.tanh(self.model.lm_head(hidden[0, -1]) / cap) * cap).numpy()
        cache = self._windowed_cache(prompt)
        logits0 = self._decode(cache, canvas0, None)
        logits1 = self._decode(cache, canvas1, logits0 / SELF_CONDITIONING_TEMPERATURE)
        return trace | {"decode0.logits": logits0[0].numpy(), "decode1.logits": logits1[0].numpy()}

    @torch.no_grad()
    def _windowed_cache(self, prompt: torch.Tensor) -> DynamicCache:
        """The encoded prompt as `generate()` keeps it: sliding layers forget what no canvas can see."""
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        self.model.model.encoder(input_ids=prompt, past_key_values=cache)
        return cache

    @torch.no_grad()
    def _decode(self, cache: DynamicCache, canvas: torch.Tensor, scaled: torch.Tensor | None) -> torch.Tensor:
        return self.model(past_key_values=cache, decoder_input_ids=canvas, self_conditioning_logits=scaled).logits

    def _settle_prompt(self, rng: np.random.Generator, length: int) -> torch.Tensor:
        """Causality lets the prompt settle from left to right: a token never disturbs those before it."""
        prompt = torch.from_numpy(rng.integers(self.vocab, size=(1, length)))
        for _ in range(SETTLE_DRAWS + 4 * length):
            self.probe.clear()
            self._windowed_cache(prompt)
            margins = self.probe.take()
            close = margins < self.margin
            if not close.any():
                self.smallest_router = min(self.smallest_router, float(margins.min()))
                return prompt
            prompt[0, close.nonzero()[0]] = int(rng.integers(self.vocab))
        raise ConfigError("no prompt with clear routing was found: try another --seed")

    def _settle_canvas(
        self, rng: np.random.Generator, cache: DynamicCache, scaled: torch.Tensor | None
    ) -> torch.Tensor:
        """In a canvas every token disturbs all others, so a large one cannot be settled fully: take the best draw."""
        best, clearest = None, -math.inf
        for _ in range(SETTLE_DRAWS):
            canvas = torch.from_numpy(rng.integers(self.vocab, size=(1, self.model.config.canvas_length)))
            self.probe.clear()
            self._decode(cache, canvas, scaled)
            margin = float(self.probe.take().min())
            if margin > clearest:
                best, clearest = canvas, margin
            if margin >= self.margin:
                break
        self.smallest_router = min(self.smallest_router, clearest)
        return best


# ------------------------------------------------------------------------------------------------ generation


class FreshDraws:
    """New random draws; uniforms are kept away from the edges between two tokens."""

    UNIFORM_STEPS = 1 << 24  # multiples of 2^-24 are exact in F32
    CANDIDATES = 4096

    def __init__(self, rng: np.random.Generator, vocab: int, canvas_length: int, margin: float):
        self.rng, self.vocab, self.canvas_length, self.margin = rng, vocab, canvas_length, margin

    def tokens(self) -> np.ndarray:
        return self.rng.integers(self.vocab, size=self.canvas_length)

    def uniforms(self, cdf: np.ndarray) -> np.ndarray:
        # Half of the widest bin is further than a quarter of its width from its edges, so this can always be had.
        wanted = np.minimum(self.margin, np.diff(cdf, prepend=0.0).max(axis=-1) / 4)
        candidates = self.rng.integers(self.UNIFORM_STEPS, size=(len(cdf), self.CANDIDATES)) / self.UNIFORM_STEPS
        chosen = np.empty(len(cdf))
        for row, uniforms in enumerate(candidates):
            distance = inverse_cdf(cdf[row], uniforms)[1]
            far = distance >= wanted[row]
            chosen[row] = uniforms[far.argmax() if far.any() else distance.argmax()]
        return chosen


class RecordedDraws:
    """The draws of one block of a finished trace, in the order in which `generate()` asks for them."""

    def __init__(self, trace: dict[str, np.ndarray], block: int):
        self.block = block
        rows = trace["gen.block"] == block
        self._tokens = iter([*trace["gen.init_canvas"][block : block + 1], *trace["gen.renoise"][rows]])
        self._uniforms = iter(trace["gen.uniforms"][rows])

    def tokens(self) -> np.ndarray:
        return self._next(self._tokens)

    def uniforms(self, cdf: np.ndarray) -> np.ndarray:
        return self._next(self._uniforms).astype(np.float64)

    def _next(self, rows: Iterator[np.ndarray]) -> np.ndarray:
        row = next(rows, None)
        if row is None:
            raise NearTie("the replay takes more steps", self.block)
        return row


def inverse_cdf(cdf: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each draw the first token whose cumulative probability exceeds it, and the distance to its bin's edges."""
    position = uniforms * cdf[-1]
    token = np.searchsorted(cdf, position, side="right")
    lower = np.where(token > 0, cdf[token - 1], 0.0)
    return token, np.minimum(position - lower, cdf[token] - position)


class PinLogits(transformers.LogitsProcessor):
    """Leaves the pinned positions of the current canvas one token; runs before the temperature."""

    def __init__(self, generation: Generation):
        self.generation = generation

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, cur_step: torch.Tensor) -> torch.Tensor:
        return self.generation.pin_logits(scores)


class Generation:
    """Runs the reference's `generate()` on given draws and records every step.

    `draws` gives the draws of a block. With margins, a canvas that leads to a near-tie is drawn again where it is
    random: everywhere at the start of a block, later in the positions that were not accepted.

    `pins` are held at every step: the canvas is overwritten before the decoder reads it, a logits processor leaves
    one token, and the stopping criterion gets the logits of the other positions. Acceptance is the reference's: the
    entropies of pinned positions are 0, so they come first and add nothing to the sums of the others.
    """

    def __init__(
        self,
        model: DiffusionGemmaForBlockDiffusion,
        probe: RouterProbe,
        config: reference.DiffusionGemmaGenerationConfig,
        draws: Callable[[int], FreshDraws | RecordedDraws],
        margins: Margins | None,
        pins: list[dict[int, int]],
    ):
        self.model, self.probe, self.config, self.draws_of, self.margins = model, probe, config, draws, margins
        self.pins = pins
        self.block, self.step, self.draws = 0, 0, draws(0)
        self.rows: list[dict[str, Any]] = []
        self.init_canvases: list[np.ndarray] = []
        self.smallest = dict.fromkeys(("argmax", "accept", "confidence", "router"), math.inf)
        self.redraws = 0

    def pinned(self) -> np.ndarray:
        """Which positions of the current canvas are pinned."""
        pinned = np.zeros(self.model.config.canvas_length, dtype=bool)
        pinned[list(self._pins())] = True
        return pinned

    def _pins(self) -> dict[int, int]:
        return self.pins[self.block] if self.block < len(self.pins) else {}

    def pin_canvas(self, canvas: torch.Tensor) -> torch.Tensor:
        canvas = canvas.clone()
        for position, token in self._pins().items():
            canvas[:, position] = token
        return canvas

    def pin_logits(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        for position, token in self._pins().items():
            logits[:, position] = -math.inf
            logits[:, position, token] = 0.0
        return logits

    def run(self, prompt: np.ndarray) -> dict[str, np.ndarray]:
        original = self.model._denoising_step
        criterion = reference.StableAndConfidentStoppingCriteria.__call__

        def stops(criteria: Any, argmax_canvas: torch.Tensor, logits: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return criterion(criteria, argmax_canvas, logits[:, ~self.pinned()], **kwargs)
        self.probe.clear()
        with (
            mock.patch.object(self.model, "_denoising_step", lambda **inputs: self._step(original, **inputs)),
            mock.patch.object(reference.EntropyBoundSampler, "initialize_canvas", self._random_canvas),
            mock.patch.object(torch, "multinomial", self._sample),
            mock.patch.object(reference.StableAndConfidentStoppingCriteria, "__call__", stops),
        ):
            outputs = self.model.generate(
                torch.from_numpy(prompt).long()[None],
                generation_config=self.config,
                logits_processor=transformers.LogitsProcessorList([PinLogits(self)]),
            )
        return self._arrays(outputs.sequences[0].numpy())

    def _random_canvas(self, batch_size: int, device: torch.device) -> torch.Tensor:
        self.random = self.draws.tokens().astype(np.int64)
        return torch.from_numpy(self.random.copy())[None]

    def _sample(self, probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Stands in for torch.multinomial: inverse CDF on recordable uniforms."""
        cdf = probabilities.double().numpy().cumsum(axis=-1)
        uniforms = self.draws.uniforms(cdf)
        picked = [inverse_cdf(row, uniform) for row, uniform in zip(cdf, uniforms, strict=True)]
        tokens = np.array([token for token, _ in picked])
        self.row |= {"uniforms": uniforms, "sampled": tokens, "cdf_margin": float(min(margin for _, margin in picked))}
        return torch.from_numpy(tokens)[:, None]

    def _step(
        self,
        original: Callable[..., tuple],
        *,
        decoder_forward: Callable[..., Any],
        current_canvas: torch.Tensor,
        cur_step: int,
        **inputs: Any,
    ) -> tuple:
        """One denoising step: settle the canvas, let the reference do its step, record it."""
        if self.step == 0:
            self._check_encoder()
        n = torch.tensor(cur_step, dtype=torch.int32)
        temperature = self.config.t_min + (self.config.t_max - self.config.t_min) * (
            n / self.config.max_denoising_steps
        )
        pinned = self.pinned()
        current_canvas = self.pin_canvas(current_canvas)
        for _ in range(REDRAWS):
            outputs = decoder_forward(
                decoder_input_ids=current_canvas,
                self_conditioning_logits=inputs["self_conditioning_logits"],
                decoder_attention_mask=inputs["mask_mapping"],
                past_key_values=inputs["past_key_values"],
                decoder_position_ids=inputs["decoder_position_ids"],
            )
            self.row = {"temperature": float(temperature), "block": self.block, "step": self.step}
            close = self._observe(self.pin_logits(outputs.logits)[0] / temperature)
            if not close.any():
                break
            current_canvas = self._redraw(current_canvas, close)
        else:
            raise NearTie("canvas", self.block)

        canvas = current_canvas[0].numpy()
        if self.step == 0:
            self.init_canvases.append(np.where(pinned, self.random, canvas))
        criteria = inputs["diffusion_stopping_criteria"]
        history = criteria.argmax_canvas_history
        results = original(
            decoder_forward=lambda **_: outputs, current_canvas=current_canvas, cur_step=cur_step, **inputs
        )
        next_canvas, argmax, _, stop = results
        stable = history is not None and bool((history == argmax).all())
        self.row |= {
            "canvas_in": canvas,
            "argmax": argmax[0].numpy(),
            "accept": inputs["sampler"].accepted_token_mask[0].numpy(),
            "renoise": self.random,
            "canvas_out": next_canvas[0].numpy(),
            "stable": stable or criteria.stability_threshold == 0,
            "stop": bool(stop[0]),
        }
        self.rows.append(self.row)
        self.step += 1
        if self.row["stop"] or cur_step == 1:
            self.block, self.step = self.block + 1, 0
            self.draws = self.draws_of(self.block)
        return results

    def _check_encoder(self) -> None:
        """The encoder has just run on fixed tokens, so a near-tie there cannot be drawn away."""
        router = float(self.probe.take().min())
        if self.margins and router < self.margins.router:
            raise NearTie("encoder routing", max(0, self.block - 1))
        self.smallest["router"] = min(self.smallest["router"], router)

    def _observe(self, scaled: torch.Tensor) -> np.ndarray:
        """Records entropy and margins of a forward; returns the positions that are close to a tie."""
        top = scaled.topk(2, dim=-1).values
        argmax_gap = (top[:, 0] - top[:, 1]).numpy()
        router_gap = self.probe.take().numpy()
        entropy = torch.distributions.Categorical(logits=scaled).entropy()
        free = entropy[~self.pinned()]
        ordered = free.sort().values
        bound, threshold = self.config.sampler_config.entropy_bound, self.config.confidence_threshold
        mean = float(free.mean())
        self.row |= {
            "entropy": entropy.numpy(),
            "mean_entropy": mean,
            "argmax_margin": float(argmax_gap.min()),
            "accept_margin": float((ordered.cumsum(0) - ordered - bound).abs().min()),
            "router_margin": float(router_gap.min()),
            "confidence_margin": abs(mean - threshold),
        }
        if self.margins is None:
            return np.zeros(len(scaled), dtype=bool)
        close = (argmax_gap < self.margins.argmax) | (router_gap < self.margins.router)
        if (
            self.row["accept_margin"] < min(max(self.margins.accept * bound, 1e-4), bound / 4)
            or self.row["confidence_margin"] < self.margins.confidence * threshold
        ):
            close[:] = True
        return close

    def _redraw(self, canvas: torch.Tensor, close: np.ndarray) -> torch.Tensor:
        free = ~self.pinned() if self.step == 0 else ~self.rows[-1]["accept"]
        chosen = close & free if (close & free).any() else free
        if not chosen.any():
            raise NearTie("canvas without random tokens", self.block)
        self.redraws += 1
        fresh = self.draws.tokens()
        canvas = torch.from_numpy(np.where(chosen, fresh, canvas[0].numpy()))[None]
        if self.step > 0:  # what the previous step drew is rewritten
            previous = self.rows[-1]
            previous["renoise"] = np.where(chosen, fresh, previous["renoise"])
            previous["canvas_out"] = canvas[0].numpy()
        return canvas

    def _arrays(self, sequence: np.ndarray) -> dict[str, np.ndarray]:
        """The rows stacked into the tensors of the format."""
        for margin in self.smallest:
            self.smallest[margin] = min(self.smallest[margin], *(row[f"{margin}_margin"] for row in self.rows))
        self.smallest["cdf"] = min(row["cdf_margin"] for row in self.rows)
        types = {
            np.int32: ("block", "step", "canvas_in", "renoise", "argmax", "sampled", "canvas_out"),
            np.float32: ("temperature", "uniforms", "entropy", "mean_entropy"),
            np.uint8: ("accept", "stable", "stop"),
        }
        trace = {
            f"gen.{name}": np.array([row[name] for row in self.rows], dtype=dtype)
            for dtype, names in types.items()
            for name in names
        }
        for name in ("argmax_margin", "accept_margin", "cdf_margin"):
            trace[f"gen.{name}"] = np.array([row[name] for row in self.rows], dtype=np.float32)
        blocks = len(self.init_canvases)
        steps = np.bincount(trace["gen.block"], minlength=blocks)
        raw = trace["gen.argmax"][steps.cumsum() - 1]
        canvas_length = self.model.config.canvas_length
        return trace | {
            "gen.steps": steps.astype(np.int32),
            "gen.init_canvas": np.array(self.init_canvases, dtype=np.int32),
            "gen.raw_blocks": raw,
            "gen.blocks": sequence[-blocks * canvas_length :].reshape(blocks, canvas_length).astype(np.int32),
            "gen.finished": np.isin(raw, eos_token_ids(self.config)).any(axis=-1).astype(np.uint8),
            "gen.sequence": sequence.astype(np.int32),
        }


def eos_token_ids(config: reference.DiffusionGemmaGenerationConfig) -> list[int]:
    eos = config.eos_token_id
    return [] if eos is None else eos if isinstance(eos, list) else [eos]


# ------------------------------------------------------------------------------------------------- recording


class Recorder:
    """Makes one case: tries noise until a trace without near-ties is found."""

    def __init__(self, case: Case, seed: int):
        self.case, self.seed, self.margins = case, seed, Margins()
        self.model = build_model(case, seed)
        self.probe = RouterProbe(self.model)
        # Defaults of unset keys are resolved by the reference itself.
        self.config, _ = self.model._prepare_generation_config(case.generation_config())
        self.vocab = self.model.config.text_config.vocab_size

    def record(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors of the case and the contents of golden.json; `config` then holds its end tokens, too."""
        forwards = Forwards(self.model, self.probe, self.margins.static_router)
        static = forwards.record(np.random.default_rng([self.seed, 0]), self.case.prompt_length)
        retries: Counter[int] = Counter()
        for attempt in range(ATTEMPTS):
            try:
                generation, trace = self._generate(static["prompt"], retries)
                sensitivity = self._sensitivity(forwards, generation, static, trace)
            except NearTie as tie:
                print(f"note: attempt {attempt}: near-tie: {tie}", file=sys.stderr)
                retries[tie.block] += 1
                continue
            self.config, margins = generation.config, generation.smallest
            margins["router"] = min(margins["router"], forwards.smallest_router)
            return static | trace, self._summary(trace) | {
                "retries": retries.total(),
                "redraws": generation.redraws,
                "margins": {name: value if math.isfinite(value) else None for name, value in margins.items()},
                "sensitivity": sensitivity,
            }
        raise ConfigError(
            f"every one of {ATTEMPTS} attempts met a near-tie: try another --seed, fewer steps, or smaller 'weights'"
        )

    def _generate(self, prompt: np.ndarray, retries: Counter[int]) -> tuple[Generation, dict[str, np.ndarray]]:
        def draws(block: int) -> FreshDraws:
            rng = np.random.default_rng([self.seed, 1, block, retries[block]])
            return FreshDraws(rng, self.vocab, self.case.canvas_length, self.margins.cdf)

        config = copy.deepcopy(self.config)
        if self.case.auto_eos:
            trace = Generation(self.model, self.probe, config, draws, self.margins, self.case.pins).run(prompt)
            config.eos_token_id = [*eos_token_ids(config), self._choose_eos(trace["gen.raw_blocks"])]
        generation = Generation(self.model, self.probe, config, draws, self.margins, self.case.pins)
        return generation, generation.run(prompt)

    @staticmethod
    def _choose_eos(blocks: np.ndarray) -> int:
        """A token that first appears inside the second canvas (inside the first if there is only one)."""
        last = min(1, len(blocks) - 1)
        start = len(blocks[last]) // 4
        for token in blocks[last][start:-1]:
            if token not in blocks[:last] and token not in blocks[last][:start]:
                return int(token)
        raise NearTie("no token for eos 'auto'", last)

    def _sensitivity(
        self,
        forwards: Forwards,
        generation: Generation,
        static: dict[str, np.ndarray],
        trace: dict[str, np.ndarray],
    ) -> dict[str, float]:
        """Replays everything with slightly changed weights; refuses the case if a decision changes."""
        with perturbed(self.model, self.seed):
            moved = forwards.compute(static)
            replay = Generation(
                self.model,
                self.probe,
                generation.config,
                lambda block: RecordedDraws(trace, block),
                None,
                self.case.pins,
            ).run(static["prompt"])
        for row, block in enumerate(trace["gen.block"]):
            for name in ("block", "canvas_in", "argmax", "sampled", "accept", "stop"):
                if not np.array_equal(trace[f"gen.{name}"][row], replay[f"gen.{name}"][row]):
                    raise NearTie(f"a relative weight change of {PERTURBATION} changes gen.{name}", int(block))
        return {
            "weights": PERTURBATION,
            "prefill.logits": relative_error(moved["prefill.logits"], static["prefill.logits"]),
            "decode0.logits": relative_error(moved["decode0.logits"], static["decode0.logits"]),
            "decode1.logits": relative_error(moved["decode1.logits"], static["decode1.logits"]),
            "gen.entropy": float(np.abs(replay["gen.entropy"] - trace["gen.entropy"]).max()),
        }

    def _summary(self, trace: dict[str, np.ndarray]) -> dict[str, Any]:
        text, config = self.model.config.text_config, self.config
        encoder, decoder = self.model.model.encoder.language_model.layers, self.model.model.decoder.layers
        return {
            "format": FORMAT,
            "seed": self.seed,
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
            },
            "prompt_length": self.case.prompt_length,
            "canvas_length": self.case.canvas_length,
            "vocab_size": text.vocab_size,
            "sliding_window": text.sliding_window,
            "layers": [
                {
                    "sliding": kind == "sliding_attention",
                    "kv_heads": text.per_layer_config[layer].num_key_value_heads,
                    "head_dim": text.per_layer_config[layer].head_dim,
                    "encoder_scalar": encoder[layer].layer_scalar.item(),
                    "decoder_scalar": decoder[layer].layer_scalar.item(),
                }
                for layer, kind in enumerate(text.layer_types)
            ],
            "self_conditioning_temperature": SELF_CONDITIONING_TEMPERATURE,
            "generation": {
                "max_new_tokens": config.max_new_tokens,
                "max_denoising_steps": config.max_denoising_steps,
                "t_min": config.t_min,
                "t_max": config.t_max,
                "entropy_bound": config.sampler_config.entropy_bound,
                "stability_threshold": config.stability_threshold,
                "confidence_threshold": config.confidence_threshold,
                "eos_token_ids": eos_token_ids(config),
                "pad_token_id": config.pad_token_id,
            },
            "blocks": len(trace["gen.steps"]),
            "steps": len(trace["gen.step"]),
        } | ({"pins": [sorted(pins.items()) for pins in self.case.pins]} if self.case.pins else {})

    def save_checkpoint(self, directory: Path) -> None:
        self.model.generation_config = self.config
        self.model.save_pretrained(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description="Record a golden case from a small random DiffusionGemma.")
    parser.add_argument("--config", type=Path, required=True, help="CONFIG.json, see tools/README.md")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the case to")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="also keep the Hugging Face checkpoint here")
    args = parser.parse_args()
    # One thread: the order of summation, and with it the trace, then depends on nothing but the seed.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        recorder = Recorder(Case.read(args.config), args.seed)
        tensors, summary = recorder.record()
        args.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = args.checkpoint or Path(scratch)
            recorder.save_checkpoint(checkpoint)
            convert(checkpoint, args.out / "model.gguf", "f32", tokenizer=False, name="golden case")
    except ConfigError as error:
        print(f"error: {args.config}: {error}", file=sys.stderr)
        return 1
    except (ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (args.out / "golden.safetensors").write_bytes(safetensors.numpy.save(tensors))
    (args.out / "golden.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if args.config.resolve() != (args.out / "config.json").resolve():
        shutil.copyfile(args.config, args.out / "config.json")
    report(summary, tensors)
    return 0


def report(summary: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    for block, steps in enumerate(tensors["gen.steps"]):
        rows = tensors["gen.block"] == block
        print(
            f"canvas {block}: {steps} steps, accepted {tensors['gen.accept'][rows].sum(axis=-1).tolist()}, "
            f"mean entropy {[round(float(h), 3) for h in tensors['gen.mean_entropy'][rows]]}, "
            f"stopped {bool(tensors['gen.stop'][rows][-1])}, finished {bool(tensors['gen.finished'][block])}"
        )
    print(f"margins {summary['margins']}\nsensitivity {summary['sensitivity']}")


if __name__ == "__main__":
    sys.exit(main())

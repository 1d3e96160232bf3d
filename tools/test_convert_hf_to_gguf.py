"""Tests of the converter on synthetic checkpoints: python -m unittest discover tools"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as QType
from gguf import GGUFReader, TokenType, quants

from convert_hf_to_gguf import Config, ConversionError, convert, expected_tensors

TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "num_experts": 2,
    "top_k_experts": 1,
    "moe_intermediate_size": 64,
    "layer_types": ["sliding_attention", "full_attention"],
}
VOCABULARY = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<0x0A>", "a", "b", "ab", "<tool>"]
TOKENIZER = {
    "added_tokens": [
        *({"id": i, "content": VOCABULARY[i], "special": True} for i in range(5)),
        {"id": 5, "content": "<|turn>", "special": False},
        {"id": 6, "content": "<turn|>", "special": True},
        {"id": 11, "content": "<tool>", "special": False},
    ],
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "vocab": {text: token for token, text in enumerate(VOCABULARY)},
        "merges": [["a", "b"]],
    },
}
TOKENIZER_CONFIG = {"bos_token": {"content": "<bos>"}, "eos_token": "<eos>", "sot_token": "<|turn>"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        if dtype == "BF16":
            raw = quants.quantize(tensor.astype(np.float32), QType.BF16).tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class ConvertTest(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory, self.out = Path(scratch.name), Path(scratch.name) / "model.gguf"
        self.write_config()
        self.write("generation_config.json", {"eos_token_id": [1, 6], "t_min": None, "max_denoising_steps": 12})
        self.write("tokenizer.json", TOKENIZER)
        self.write("tokenizer_config.json", TOKENIZER_CONFIG)
        rng = np.random.default_rng(0)
        self.tensors = {
            spec.sources[0]: rng.standard_normal(spec.shape).astype(np.float32)
            for spec in expected_tensors(Config(self.directory / "config.json"))
        }
        self.write_weights()

    def write(self, name: str, value: Any) -> None:
        (self.directory / name).write_text(json.dumps(value))

    def write_config(self, root: dict[str, Any] | None = None, **text: Any) -> None:
        self.write("config.json", {"model_type": "diffusion_gemma", "text_config": TEXT | text} | (root or {}))

    def write_weights(self, dtype: str = "F32") -> None:
        write_safetensors(self.directory / "model.safetensors", self.tensors, dtype)

    def convert(self, outtype: str = "f32", **options: Any) -> GGUFReader:
        with contextlib.redirect_stderr(io.StringIO()) as self.stderr:
            convert(self.directory, self.out, outtype, **options)
        return GGUFReader(self.out)

    def assert_fails(self, *culprits: str) -> None:
        with self.assertRaises(ConversionError) as caught:
            self.convert()
        for culprit in culprits:
            self.assertIn(culprit, str(caught.exception))
        self.assertEqual(list(self.directory.glob("*.gguf*")), [], "a failed conversion must leave nothing behind")

    @staticmethod
    def field(reader: GGUFReader, key: str) -> Any:
        return reader.fields[key].contents()

    @staticmethod
    def tensor(reader: GGUFReader, name: str) -> Any:
        return next(tensor for tensor in reader.tensors if tensor.name == name)

    def test_f32_keeps_every_value_and_shape(self) -> None:
        reader = self.convert()
        specs = {spec.gguf_name: spec for spec in expected_tensors(Config(self.directory / "config.json"))}
        self.assertEqual({tensor.name for tensor in reader.tensors}, set(specs) | {"rope_freqs.weight"})
        for name, spec in specs.items():
            np.testing.assert_array_equal(self.tensor(reader, name).data, self.tensors[spec.sources[0]], name)
        self.assertNotIn("blk.1.attn_v.weight", specs)
        # A quarter of 32 dimensions rotates: 4 of 16 pairs.
        np.testing.assert_array_equal(
            self.tensor(reader, "rope_freqs.weight").data, np.float32([1.0] * 4 + [1e30] * 12)
        )

    def test_geometry_and_defaults_of_missing_keys(self) -> None:
        reader = self.convert()
        for key, value in {
            "attention.head_count_kv": [2, 1],
            "attention.sliding_window_pattern": [True, False],
            "attention.key_length": 32,
            "attention.key_length_swa": 16,
            "attention.sliding_window": 512,
            "context_length": 131072,
            "final_logit_softcapping": 30.0,
            "rope.freq_base": 1e6,
        }.items():
            self.assertEqual(self.field(reader, f"diffusion-gemma.{key}"), value, key)
        self.assertEqual(self.field(reader, "diffusion.canvas_length"), 256)

    def test_per_layer_config_is_the_same_geometry(self) -> None:
        legacy = self.convert()
        self.write_config(
            global_head_dim=None,
            num_global_key_value_heads=None,
            per_layer_config={"01": {"head_dim": 32, "num_key_value_heads": 1}},
        )
        modern = self.convert()
        for key in ("attention.head_count_kv", "attention.key_length", "rope.dimension_count"):
            key = f"diffusion-gemma.{key}"
            self.assertEqual(self.field(modern, key), self.field(legacy, key))

    def test_generation_config(self) -> None:
        reader = self.convert()
        self.assertEqual(self.field(reader, "diffusion.eos_token_ids"), [1, 6])
        self.assertEqual(self.field(reader, "tokenizer.ggml.eos_token_id"), 1)
        self.assertEqual(self.field(reader, "tokenizer.ggml.eot_token_id"), 6)
        self.assertEqual(self.field(reader, "diffusion.eb_max_steps"), 12)
        self.assertNotIn("diffusion.eb_t_min", reader.fields, "null means unset")

    def test_token_types(self) -> None:
        reader = self.convert()
        tokens, kinds = (self.field(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
        types = dict(zip(tokens, kinds, strict=True))
        for text, kind in {
            "<eos>": TokenType.CONTROL,
            "<|turn>": TokenType.CONTROL,  # only tokenizer_config.json says so
            "<tool>": TokenType.USER_DEFINED,
            "<0x0A>": TokenType.BYTE,
            "ab": TokenType.NORMAL,
            "[PAD39]": TokenType.UNUSED,
        }.items():
            self.assertEqual(types[text], kind, text)
        self.assertEqual(self.field(reader, "tokenizer.ggml.merges"), ["a b"])
        self.assertEqual(self.field(reader, "tokenizer.ggml.bos_token_id"), 2)

    def test_q8_0_and_its_exceptions(self) -> None:
        reader = self.convert("q8_0")
        for name, qtype in {
            "token_embd.weight": QType.Q8_0,
            "blk.0.ffn_down_exps.weight": QType.Q8_0,
            "blk.0.ffn_down.weight": QType.F16,  # rows of 48
            "blk.0.ffn_gate_inp.weight": QType.F32,
            "blk.0.attn_norm.weight": QType.F32,
        }.items():
            self.assertEqual(self.tensor(reader, name).tensor_type, qtype, name)
        self.assertIn("stay F16", self.stderr.getvalue())
        stored = self.tensor(reader, "blk.0.ffn_down_exps.weight")
        source = self.tensors["model.decoder.layers.0.experts.down_proj"]
        np.testing.assert_allclose(quants.dequantize(stored.data, QType.Q8_0), source, atol=0.02)

    def test_bf16_checkpoint(self) -> None:
        self.write_weights("BF16")
        reader = self.convert("bf16")
        name = "model.decoder.embed_tokens.weight"
        expected = quants.quantize(self.tensors[name], QType.BF16)
        np.testing.assert_array_equal(self.tensor(reader, "token_embd.weight").data.view(np.uint8), expected)
        # sqrt(32) = 5.65685 rounds to 5.65625 in BF16.
        self.assertEqual(self.field(reader, "diffusion-gemma.embedding_scale"), 5.65625)

    def test_shards(self) -> None:
        names = list(self.tensors)
        halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in halves.items():
            write_safetensors(self.directory / file, {name: self.tensors[name] for name in part})
        self.write(
            "model.safetensors.index.json",
            {"weight_map": {name: file for file, part in halves.items() for name in part}},
        )
        (self.directory / "model.safetensors").unlink()
        self.assertEqual(len(self.convert().tensors), len(names) + 1)

    def test_tied_copies(self) -> None:
        embedding = self.tensors.pop("model.decoder.embed_tokens.weight")
        self.tensors["lm_head.weight"] = embedding
        self.tensors["model.encoder.language_model.embed_tokens.weight"] = embedding
        self.tensors["model.encoder.vision_tower.patch.weight"] = embedding
        self.write_weights()
        np.testing.assert_array_equal(self.tensor(self.convert(), "token_embd.weight").data, embedding)
        self.assertIn("skipping 1 vision tensor", self.stderr.getvalue())
        self.tensors["lm_head.weight"] = embedding + 1
        self.write_weights()
        self.out.unlink()
        self.assert_fails("lm_head.weight", "tied")

    def test_no_tokenizer(self) -> None:
        (self.directory / "tokenizer.json").unlink()
        self.assertNotIn("tokenizer.ggml.model", self.convert(tokenizer=False).fields)
        self.out.unlink()
        self.assert_fails("tokenizer.json", "--no-tokenizer")

    def test_bad_config(self) -> None:
        for culprit, change in {
            "tie_word_embeddings": {"root": {"tie_word_embeddings": False}},
            "model_type": {"root": {"model_type": "gemma4"}},
            "canvas_length": {"root": {"canvas_length": 0}},
            "num_experts": {"num_experts": None},
            "top_k_experts": {"top_k_experts": 3},
            "hidden_activation": {"hidden_activation": "silu"},
            "layer_types": {"layer_types": ["full_attention"]},
            "num_hidden_layers": {"num_hidden_layers": "two"},
            "per_layer_config": {"per_layer_config": {"1": {"sliding_window": 3}}},
        }.items():
            with self.subTest(culprit):
                self.write_config(**change)
                self.assert_fails("config.json", culprit)

    def test_bad_weights(self) -> None:
        name = "model.decoder.layers.0.self_attn.q_proj.weight"
        good = self.tensors[name]
        for problem, bad in {"shape": good[:-1], "NaN": np.full_like(good, np.nan), "missing": None}.items():
            with self.subTest(problem):
                self.tensors.pop(name, None)
                if bad is not None:
                    self.tensors[name] = bad
                self.write_weights()
                self.assert_fails(name, problem)

    def test_bad_tokenizer(self) -> None:
        model = TOKENIZER["model"]
        for culprit, change in {
            "byte_fallback": {"model": model | {"byte_fallback": False}},
            "merges": {"model": {key: value for key, value in model.items() if key != "merges"}},
            "share one id": {"model": model | {"vocab": model["vocab"] | {"c": 8}}},
            "vocab_size 40": {"model": model | {"vocab": model["vocab"] | {"c": 40}}},
        }.items():
            with self.subTest(culprit):
                self.write("tokenizer.json", TOKENIZER | change)
                self.assert_fails("tokenizer.json", culprit)

    def test_f16_overflow(self) -> None:
        self.tensors["model.decoder.embed_tokens.weight"][3, 4] = 1e5
        self.write_weights()
        with self.assertRaisesRegex(ConversionError, "embed_tokens.*bf16"):
            self.convert("f16")

    def test_unknown_tensor(self) -> None:
        self.tensors["model.decoder.layers.0.mystery"] = np.zeros(3, dtype=np.float32)
        self.write_weights()
        self.assert_fails("model.decoder.layers.0.mystery")

    def test_truncated_safetensors(self) -> None:
        path = self.directory / "model.safetensors"
        whole = path.read_bytes()
        for length in (0, 4, 100, len(whole) - 1):
            with self.subTest(length):
                path.write_bytes(whole[:length])
                self.assert_fails("model.safetensors")


if __name__ == "__main__":
    unittest.main()

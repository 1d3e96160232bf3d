"""Writes a checkpoint into the repository: crates/demo-model/demo-q8_0.gguf, and the samples of tests/engine/vocab.rs.

    python export.py CHECKPOINT
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "crates/demo-model/demo-q8_0.gguf"
SAMPLES = [
    "What is the capital of Norway?",
    "Write JSON: Anna, 42, Oslo",
    "  two  spaces\n\nand newlines\n",
    "Größe ☃ ünïcode",
    "<|turn>user\nHello!<turn|>\n<|turn>model\n",
    "def is_even(n):\n    return n % 2 == 0",
    "1 2 _ 4\n_ 4 1 2\n",
    "2026-11-25, 3.14, a1b2",
    "THE GOLDEN OWL ATE 17 BERRIES.",
    "",
    "a",
    "\n",
]


def convert(checkpoint, gguf):
    command = [sys.executable, ROOT / "tools/convert_hf_to_gguf.py", checkpoint, "--outtype", "q8_0", "--outfile", gguf]
    subprocess.run([*command, "--name", "DiffusionGemma demo 4M"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    samples = [dict(text=text, ids=tokenizer.encode(text, add_special_tokens=False).ids) for text in SAMPLES]
    (ROOT / "tests/vocab/demo-tokens.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    convert(checkpoint, DEMO)


if __name__ == "__main__":
    main()

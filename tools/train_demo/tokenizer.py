"""The demo model's tokenizer: BPE with `▁` for space, one token a number below 100 and most words, byte fallback; Gemma
4's turns."""

import json
import random
import re
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tasks
import words

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
PAD, EOS, BOS, UNK, MASK, TURN, END_TURN = range(7)
LEARNED, VOCAB = 1664, 2176  # tokens: from merges learned freely, and with the whole words added to them
COUNTRY_WORDS = [*words.COUNTRIES, *(name for facts in words.COUNTRIES.values() for name in facts)]
NAMED = sorted({word for name in (*COUNTRY_WORDS, *words.NAMES, *words.DAYS, *words.MONTHS) for word in name.split()})
# Names as people type them inside a question, and as answers in upper case have them.
RECASED = {f" {name.lower()}": name for name in NAMED}
RECASED |= {name.upper(): name for name in sorted({word for name in COUNTRY_WORDS for word in name.split()})}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def render(messages):
    """TEMPLATE without its `<bos>`, with the opening of the model's turn. messages: (role, text) pairs."""
    roles = {"assistant": "model"}
    return "".join(f"<|turn>{roles.get(role, role)}\n{text.strip()}<turn|>\n" for role, text in messages) + "<|turn>model\n"


def texts(seed, count):
    """Drawn prompts and answers."""
    r = random.Random(seed)
    names, weights = zip(*tasks.WEIGHTS.items())
    for task in r.choices(names, weights, k=count):
        example = tasks.draw(r, task)
        yield from (*(message for _, message in example.messages), example.answer)


def train(seed=3, count=60_000):
    """Learns the merges from drawn examples. No merge crosses a space, a line end, or the ends of a word or number."""
    text = [*texts(seed, count), *["user", "model", "system"] * 1000]
    text += ["".join(map(chr, range(32, 127)))] * 20
    text += [str(number) for number in range(10, 100)] * 1000
    # A word that also begins an answer is a token with a space and without: in pieces it shifts all that follow it, and
    # a canvas whose positions are drawn at once mixes the shifts up.
    text += [start + word for word in NAMED for start in ("", " ")] * 800
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Split("▁", "merged_with_next"),
        pre_tokenizers.Split(Regex("[0-9]{1,2}|_|▁?[^0-9A-Za-z▁_]+"), "isolated"),
    ])
    first = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    learner.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=LEARNED, special_tokens=first, show_progress=False, min_frequency=2)
    )
    return extended(*parts(learner), count=count)


def parts(tokenizer):
    """The vocabulary {token: id} and the merges, pairs of tokens."""
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def extended(vocab, merges, seed=4, count=60_000):
    """A tokenizer of VOCAB tokens that begins with these, for which most of the tasks' words are one token each. Other
    text is split as before."""
    vocab, ranks = dict(vocab), {merge: rank for rank, merge in enumerate(merges)}
    often = Counter(word for text in texts(seed, count) for word in re.findall(" ?[A-Za-z]+", text))
    for word in [*RECASED, *sorted(often, key=lambda word: (-often[word], word))]:
        pieces = merged(list(word.replace(" ", "▁")), ranks)
        while len(pieces) > 1 and len(vocab) < VOCAB:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.setdefault(pieces[0], len(vocab))
        if len(vocab) == VOCAB:
            return assemble(vocab, list(ranks))
    raise ValueError(f"the tasks' words make {len(vocab)} tokens, fewer than {VOCAB}")


def merged(pieces, ranks):
    """A word's characters, merged as BPE does it. ranks: of the pairs, the first to be merged has the lowest."""
    while pairs := [pair for pair in zip(pieces, pieces[1:]) if pair in ranks]:
        i = list(zip(pieces, pieces[1:])).index(min(pairs, key=ranks.get))
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def assemble(vocab, merges):
    """The tokenizer of a vocabulary {token: id} and its merges, pairs of tokens."""
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def save(tokenizer, folder):
    """Writes tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>", chat_template=TEMPLATE, add_bos_token=True,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def prompt_ids(tokenizer, messages):
    return [BOS] + tokenizer.encode(render(messages), add_special_tokens=False).ids


def answer_ids(tokenizer, answer, canvas):
    """The answer, its end and padding, a whole number of canvases."""
    ids = tokenizer.encode(answer, add_special_tokens=False).ids + [END_TURN]
    return ids + [PAD] * (-len(ids) % canvas)

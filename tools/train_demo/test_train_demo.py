"""Tests of the demo model's training: python -m unittest discover tools/train_demo"""

import json
import random
import re
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import evaluate
import export
import network
import optimizer
import tasks
import tokenizer as tk
import train


class TestTasks(unittest.TestCase):
    def test_held_back_combinations_are_never_trained_on(self):
        r = random.Random(0)
        for task in tasks.TASKS:
            with self.subTest(task):
                shown = {tasks.draw(r, task).messages for _ in range(5000)}
                held = {tasks.draw(r, task, held=True).messages for _ in range(300)}
                self.assertFalse(shown & held)

    def test_a_prompt_determines_its_answer(self):
        r = random.Random(1)
        known = {}
        for task in tasks.TASKS:
            for _ in range(3000):
                draw = tasks.draw(r, task)
                self.assertEqual(known.setdefault(draw.messages, draw.answer), draw.answer)

    def test_sudoku(self):
        self.assertEqual(len(tasks.GRIDS), len(set(tasks.GRIDS)))
        self.assertEqual(len(tasks.GRIDS), 288)
        r = random.Random(2)
        for _ in range(50):
            draw = tasks.draw(r, "sudoku")
            puzzle = re.sub(r"[^1-4_]", "", draw.messages[0][1].split("\n", 1)[1])
            fits = [g for g in tasks.GRIDS if all(p in ("_", c) for p, c in zip(puzzle, g))]
            self.assertEqual([tasks.grid_lines(g) for g in fits], [draw.answer])

    def test_arithmetic_and_sorting_and_json_and_code_are_right(self):
        r = random.Random(3)
        for _ in range(500):
            answer = tasks.draw(r, "arithmetic").answer
            if sum_ := re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", answer):
                a, sign, b, c = sum_.groups()
                self.assertEqual({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign], int(c))
            json.loads(tasks.draw(r, "json").answer)
            compile(tasks.draw(r, "code").answer, "answer", "exec")
            numbers = tasks.draw(r, "sorting").answer.split(", ")
            order = sorted(numbers, key=int) if numbers[0].isdigit() else sorted(numbers)
            self.assertIn(numbers, (order, order[::-1]))


class TestTokenizer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = tk.train(texts=5000)

    def test_numbers_below_100_are_tokens_of_their_own(self):
        for number in range(100):
            self.assertEqual(len(self.tokenizer.encode(str(number), add_special_tokens=False).ids), 1, number)
        for token in self.tokenizer.get_vocab():
            if not token.startswith("<"):
                self.assertTrue(not re.search("[0-9_]", token) or re.fullmatch("[0-9]{1,2}|_", token), token)

    def test_words_that_begin_answers_are_tokens_with_a_space_and_without(self):
        for word in [*tasks.DAYS, *tasks.MONTHS, *tasks.NAMES, *tasks.COUNTRIES, *tasks.CITIES]:
            for text in (word, " " + word, f"{word},", f'"{word}"'):
                ids = self.tokenizer.encode(text, add_special_tokens=False).ids
                self.assertIn(word, [self.tokenizer.id_to_token(i).lstrip("▁") for i in ids], text)

    def test_the_template_renders_what_training_sees(self):
        from transformers import PreTrainedTokenizerFast

        with tempfile.TemporaryDirectory() as folder:
            tk.save(self.tokenizer, Path(folder))
            whole = PreTrainedTokenizerFast.from_pretrained(folder)
        r = random.Random(4)
        for task in tasks.TASKS:
            draw = tasks.draw(r, task)
            messages = [dict(role=role, content=text) for role, text in draw.messages]
            ids = whole.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            self.assertEqual(ids, tk.prompt_ids(self.tokenizer, draw.messages))

    def test_texts_come_back(self):
        for text in [*export.SAMPLES, tasks.UNKNOWN]:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            self.assertEqual(self.tokenizer.decode(ids, skip_special_tokens=False), text)


class TestNetwork(unittest.TestCase):
    def test_a_start_from_another_vocabulary(self):
        old, new = tk.train(texts=2000), tk.train(texts=4000)
        self.assertNotEqual(old.get_vocab(), new.get_vocab())
        torch.manual_seed(0)
        model, started = network.build(), network.build()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tk.save(old, Path(folder))
            network.start_from(started, Path(folder), new)
        before, after = network.trained(model), network.trained(started)
        for name, weight in before.items():
            if weight.shape[0] != tk.VOCAB:
                self.assertTrue(torch.equal(weight, after[name]), name)
        rows, got = model.lm_head.weight, started.lm_head.weight
        for token, i in new.get_vocab().items():
            same = old.token_to_id(token)
            pieces = [same] if same is not None else old.encode(token, add_special_tokens=False).ids
            self.assertLess((got[i] - rows[pieces].mean(0)).abs().max().item(), 1e-6, token)

    def test_logits_are_those_of_transformers(self):
        torch.manual_seed(0)
        model = network.build()
        # Beyond the window, at it, and far below, in one padded batch.
        lengths = torch.tensor([150, network.WINDOW - 1, 20])
        ids = torch.randint(10, 1000, (3, 150))
        canvas = torch.randint(0, tk.VOCAB, (3, network.CANVAS))
        run = network.Pass(model, torch.float32)
        with torch.no_grad():
            cache = run.encode(ids)
            first = run.decode(canvas, cache, lengths)
            later = run.decode(canvas, cache, lengths, first / 0.6)
            for row, length in enumerate(lengths):
                prefix = model.model.encoder(input_ids=ids[row : row + 1, :length]).past_key_values
                one = dict(past_key_values=prefix, decoder_input_ids=canvas[row : row + 1])
                theirs = model(**one).logits[0]
                self.assertLess((first[row] - theirs).abs().max().item(), 1e-4)
                theirs = model(**one, self_conditioning_logits=theirs[None] / 0.6).logits[0]
                self.assertGreater((first[row] - theirs).abs().max().item(), 1e-2)
                self.assertLess((later[row] - theirs).abs().max().item(), 1e-4)

    def test_a_step_changes_every_parameter_and_lowers_the_loss(self):
        torch.manual_seed(0)
        model = network.build()
        params = network.trained(model)
        before = {name: p.detach().clone() for name, p in params.items()}
        opts = optimizer.optimizers(params, train.LR_MATRICES, train.LR_OTHERS)
        batches = train.Batches(tk.train(texts=2000), seed=1)
        _, prefix, lengths, canvas = batches.next()
        losses = []
        for _ in range(8):
            loss = train.loss_of(model, prefix, lengths, canvas).mean()
            loss.backward()
            for opt in opts:
                opt.step()
                opt.zero_grad()
            losses.append(loss.item())
        self.assertLess(losses[-1], losses[0] - 1.0)
        still = [name for name, p in params.items() if torch.equal(p, before[name])]
        self.assertEqual(still, [])

    def test_workers_add_up_to_the_whole_gradient(self):
        torch.manual_seed(0)
        model = network.build()
        params = list(network.trained(model).values())
        weights = torch.nn.Linear(1, 4)

        def loss_of(_, x):
            return weights(x).square().mean(1)

        x = torch.randn(6, 1)
        loss_of(model, x).mean().backward()
        want = [p.grad.clone() for p in weights.parameters()]
        with ThreadPoolExecutor(2) as workers:
            losses = train.backward(loss_of, model, [*weights.parameters(), params[0]], workers, 2, x)
        self.assertLess((losses - loss_of(model, x)).abs().max().item(), 1e-6)
        for p, gradient in zip(weights.parameters(), want):
            self.assertLess((p.grad - gradient).abs().max().item(), 1e-6)
        self.assertIsNone(params[0].grad)

    def test_muon_s_update_is_near_orthogonal(self):
        torch.manual_seed(0)
        for shape in ((2, 48, 96), (2, 96, 48)):
            singular = torch.linalg.svdvals(optimizer.orthogonalized(torch.randn(shape)))
            self.assertGreater(singular.min().item(), 0.3)
            self.assertLess(singular.max().item(), 1.5)


class TestEvaluation(unittest.TestCase):
    def test_prompts_are_held_back_and_always_the_same(self):
        draws = evaluate.held_back()
        self.assertEqual(draws, evaluate.held_back())
        self.assertEqual(len({d.messages for d in draws}), evaluate.PROMPTS)
        self.assertTrue(all(tasks.is_held(d.key) for d in draws))
        self.assertEqual({d.task for d in draws}, set(tasks.TASKS))


if __name__ == "__main__":
    unittest.main()

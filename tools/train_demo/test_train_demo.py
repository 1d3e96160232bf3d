"""Tests of the demo model's training: python -m unittest discover tools/train_demo"""

import json
import random
import re
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import canvas_cases
import canvas_tasks
import evaluate
import evaluate_canvas
import export
import import_gguf
import network
import optimizer
import rows
import tasks
import tokenizer as tk
import tool
import train
import words

torch.set_num_threads(1)  # the operations are too small for more


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
            for _ in range(3000 if task not in canvas_tasks.OPEN else 0):
                draw = tasks.draw(r, task)
                self.assertEqual(known.setdefault(draw.messages, draw.answer), draw.answer)
                typed = tasks.typed(draw, unmarked=r.random() < 0.5)
                self.assertEqual(known.setdefault(typed.messages, typed.answer), typed.answer)

    def test_a_continued_chat_ends_with_the_example(self):
        r = random.Random(5)
        lengths = set()
        for task in tasks.QUESTIONS * 20:
            draw = tasks.draw(r, task.__name__)
            whole = tasks.continued(r, draw)
            self.assertEqual(whole.messages[len(whole.messages) - len(draw.messages) :], draw.messages)
            self.assertEqual((whole.answer, whole.task), (draw.answer, draw.task))
            roles = [role for role, _ in whole.messages]
            if draw.messages[0][0] == "system":
                self.assertEqual(whole, draw)
            else:
                self.assertEqual(roles, ["user", "assistant"] * (len(roles) // 2) + ["user"])
            lengths.add(len(whole.messages) - len(draw.messages))
        self.assertLessEqual({0, 2, 4, 6}, lengths)

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


class TestCanvasTasks(unittest.TestCase):
    def test_the_rest_of_a_document_determines_its_gap(self):
        r = random.Random(5)
        found, sizes = {}, set()
        for _ in range(4000):
            draw = tasks.draw(r, "infill")
            start, end = draw.gap
            prompt = f"{canvas_tasks.FILL}\n{draw.answer[:start]}{canvas_tasks.GAP}{draw.answer[end:]}"
            self.assertEqual(draw.messages, (("user", prompt),))
            self.assertEqual(found.setdefault(prompt, draw.answer), draw.answer)
            sizes.add(len(re.findall(r"\w+|[^\w\s]", draw.answer[start:end])))
        self.assertLessEqual(set(range(1, canvas_tasks.LONGEST_GAP)), sizes)

    def test_a_later_word_decides_most_gaps(self):
        r = random.Random(6)
        later, before = 0, {}
        for _ in range(2000):
            template, facts, _ = canvas_tasks.document(r)
            text, spans = canvas_tasks.filled(template, facts)
            start, end, decided_later = canvas_tasks.gap_in(r, template, text, spans)
            later += decided_later
            if decided_later:
                before.setdefault(text[:start], set()).add(text[start:end])
        self.assertGreater(later, 1200)
        # What stands before such a gap does not say what is in it.
        often = [gaps for start, gaps in before.items() if start in ("Dear", "Today", "One")]
        self.assertTrue(len(often) == 3 and all(len(gaps) > 5 for gaps in often))

    def test_json_by_a_schema_has_its_fields_in_its_order(self):
        r = random.Random(7)
        layouts = {False: set(), True: set()}
        for held in (False, True):
            for _ in range(600):
                draw = tasks.draw(r, "schema", held=held)
                wanted = json.loads(re.search(r"\{.*\}", draw.messages[0][1])[0])
                answer = json.loads(draw.answer)
                self.assertEqual(list(answer), list(wanted))
                for field, kind in wanted.items():
                    self.assertIsInstance(answer[field], dict(integer=int, string=str)[kind])
                    self.assertIn(str(answer[field]), draw.messages[0][1])
                layouts[held].add(tuple(wanted))
        self.assertFalse(layouts[False] & layouts[True])

    def test_edits_leave_a_choice_open(self):
        r = random.Random(8)
        answers = {}
        for _ in range(20_000):
            draw = tasks.draw(r, "edit")
            answers.setdefault(draw.messages[0][1], set()).add(draw.answer)
        for start in ("Add a color", "Say who", "Say where", "Change the", "Write", "Describe", "Rewrite"):
            most = max(len(found) for question, found in answers.items() if question.startswith(start))
            self.assertGreater(most, 3 if start != "Change the" else 1, start)
        for question, found in answers.items():
            if " to " in question.split(":")[0]:
                self.assertEqual(len(found), 1, question)

    def test_edits_of_several_lines_change_what_the_instruction_names_and_nothing_else(self):
        r = random.Random(12)
        sizes = set()
        for _ in range(3000):
            draw = tasks.draw(r, "lines")
            instruction, _, text = draw.messages[0][1].partition(": ")
            self.assertEqual(canvas_tasks.original(draw), text)
            before, after = re.findall(r"\w+|\W", text), re.findall(r"\w+|\W", draw.answer)
            changed = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
            if match := re.fullmatch(r"(?:Change (\w+) to|Replace (\w+) with) (\w+)", instruction):
                self.assertEqual(changed, {(match[1] or match[2], match[3])})
                self.assertNotIn(match[1] or match[2], after)
            else:
                self.assertIn("past tense", instruction)
                self.assertLessEqual(changed, set(canvas_tasks.PAST.items()))
                self.assertFalse(set(after) & set(canvas_tasks.PAST))
            sizes.add(text.count("\n") + 1)
        self.assertLessEqual({1, 2, 3, 4, 5, 7, 9}, sizes)

    def test_half_of_the_tastes_are_facts_and_the_others_frequencies(self):
        weights = [canvas_tasks.taste(name, what) for name in words.NAMES for what in canvas_tasks.TASTES]
        self.assertEqual(len(weights), 100)
        facts = sum(len(w) == 1 for w in weights)
        self.assertTrue(40 <= facts <= 60, facts)
        for w in weights:
            self.assertAlmostEqual(sum(w.values()), 1)
        r = random.Random(9)
        drawn = [tasks.draw(r, "tastes") for _ in range(20_000)]
        name, what = next((n, w) for n in words.NAMES for w in canvas_tasks.TASTES if len(canvas_tasks.taste(n, w)) == 3)
        answers = [d.answer for d in drawn if f"{name} likes {what} " in d.key]
        for answer, weight in canvas_tasks.taste(name, what).items():
            self.assertAlmostEqual(answers.count(answer) / len(answers), weight, delta=0.12)

    def test_numbers_and_greetings_and_reasons(self):
        r = random.Random(10)
        for _ in range(500):
            draw = tasks.draw(r, "numbers")
            numbers = list(map(int, re.findall(r"\d+", draw.answer)))
            self.assertEqual(len({b - a for a, b in zip(numbers, numbers[1:])}), 1, draw.answer)
            first, last = (list(map(int, re.findall(r"\d+", draw.messages[0][1]))) * 2)[:2]
            self.assertEqual(numbers[-1], last)
            if "Count to" not in draw.messages[0][1]:
                self.assertEqual(numbers[0], first)
        asked = {d.messages[0][1] for d in (tasks.draw(r, "greetings") for _ in range(2000))}
        self.assertLessEqual({"Hello", "Hello!", "Hi", "Hey", "Good morning."}, asked)
        lower = {tasks.typed(tasks.draw(r, "greetings")).messages[0][1] for _ in range(2000)}
        self.assertLessEqual({"hello", "hi there", "thanks"}, lower)
        self.assertIn("Why is the sky blue?", {tasks.draw(r, "why").messages[0][1] for _ in range(500)})


class TestRows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = tk.train(count=5000)

    def rows(self, task, count=600):
        r = random.Random(11)
        maker = rows.Rows(self.tokenizer, r)
        for _ in range(count):
            example = tasks.draw(r, task)
            yield example, maker.row(example)

    def test_a_gap_is_free_and_the_rest_fixed(self):
        lengths = set()
        for example, row in self.rows("infill"):
            self.assertIn(len(row.canvas), rows.LENGTHS)
            whole = tk.answer_ids(self.tokenizer, example.answer, 1)
            seen = row.prefix[row.prompt :] + row.canvas
            self.assertEqual(seen[: len(whole)], whole[: len(seen)])
            self.assertEqual(set(seen[len(whole) :]) - {tk.PAD}, set())
            if all(row.free):
                continue
            free = [i for i, one in enumerate(row.free) if one]
            self.assertEqual(free, list(range(free[0], free[-1] + 1)))
            lengths.add(len(free))
            begin, end = example.gap
            text = self.tokenizer.decode([row.canvas[i] for i in free], skip_special_tokens=False)
            if free[-1] < len(row.canvas) - 1:
                self.assertIn(example.answer[begin:end], text)
        self.assertLessEqual(set(range(1, 25)), lengths)

    def test_other_canvases_are_pieces_of_the_answer(self):
        sizes, spans = set(), 0
        for example, row in self.rows("stories"):
            size = len(row.canvas)
            sizes.add(size)
            answer = tk.answer_ids(self.tokenizer, example.answer, size)
            start = len(row.prefix) - row.prompt
            self.assertEqual(start % size, 0)
            self.assertEqual(row.prefix, tk.prompt_ids(self.tokenizer, example.messages) + answer[:start])
            self.assertEqual(row.canvas, answer[start : start + size])
            spans += not all(row.free)
        self.assertEqual(sizes, set(rows.LENGTHS))
        self.assertTrue(30 < spans < 120, spans)

    def test_mistakes_are_words_of_the_same_kind(self):
        wrong = 0
        for _, row in self.rows("facts"):
            for a, b in zip(row.canvas, row.shown):
                if a != b:
                    wrong += 1
                    self.assertIn(b, rows.Rows(self.tokenizer, random.Random(0)).mates[a])
        self.assertGreater(wrong, 100)

    def test_edits_show_the_text_as_it_was_or_as_it_shall_be(self):
        unedited = 0
        for example, row in self.rows("edit"):
            original = canvas_tasks.original(example)
            if original is None:
                self.assertEqual(row.canvas, row.shown)
                self.assertTrue(row.open)
            elif row.canvas != row.shown:
                text = self.tokenizer.decode(row.shown, skip_special_tokens=True)
                unedited += text.strip() in original
            self.assertEqual(len(row.canvas), len(row.shown))
        self.assertGreater(unedited, 20)


class TestTokenizer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = tk.train(count=5000)

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

    def test_names_in_other_case_are_tokens(self):
        for form, name in tk.RECASED.items():
            ids = self.tokenizer.encode(form, add_special_tokens=False).ids
            self.assertEqual(len(ids), 1, form)
            self.assertEqual(self.tokenizer.id_to_token(ids[0]).lstrip("▁").lower(), name.lower())

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
    def test_a_gguf_file_gives_its_checkpoint_back(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            import_gguf.checkpoint(export.DEMO, folder / "first")
            export.convert(folder / "first", folder / "again.gguf")
            self.assertEqual(export.DEMO.read_bytes(), (folder / "again.gguf").read_bytes())

    def test_a_start_from_another_vocabulary(self):
        old, new = tk.train(count=2000), tk.train(count=4000)
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

    def test_the_encoder_s_head_is_that_of_transformers(self):
        torch.manual_seed(1)
        model = network.build()
        ids = torch.randint(10, 1000, (2, 40))
        run = network.Pass(model)
        with torch.no_grad():
            cache, states = run.encode(ids, states=True)
            theirs = model.lm_head(model.model.encoder(input_ids=ids).last_hidden_state)
            theirs = torch.tanh(theirs / run.cap) * run.cap
            self.assertLess((run.head(states) - theirs).abs().max().item(), 1e-4)
            for (k, v), (same_k, same_v) in zip(cache, run.encode(ids), strict=True):
                self.assertTrue(torch.equal(k, same_k) and torch.equal(v, same_v))
            # Without a prompt each token but the first counts, and no padding.
            ids[1, 30:] = tk.PAD
            losses = train.next_token_loss(run, run.encode(ids, states=True)[1], ids, torch.tensor([0, 0]))
            for row, size, loss in ((0, 40, losses[0]), (1, 30, losses[1])):
                right = theirs[row, : size - 1].log_softmax(-1).gather(1, ids[row, 1:size, None])
                self.assertAlmostEqual(-right.mean().item(), loss.item(), places=4)
            # With one, a few of its tokens do.
            drawn = [train.next_token_loss(run, states, ids, torch.tensor([40, 20])).tolist() for _ in range(60)]
            self.assertTrue(35 < sum(prompt != 0 for prompt, _ in drawn) < 60)
            self.assertTrue(all(loss != 0 for _, loss in drawn))

    def test_fixed_positions_are_shown_clean_and_have_no_loss(self):
        torch.manual_seed(2)
        model = network.build()
        text = torch.randint(10, 1000, (4, 60))
        lengths, starts = torch.tensor([28, 28, 28, 28]), torch.tensor([20, 20, 20, 20])
        canvas = text[:, 28:]
        free = torch.zeros_like(canvas, dtype=torch.bool)
        free[:, 5:9] = True

        def loss(shown, free=free, canvas=canvas):
            torch.manual_seed(3)
            with torch.no_grad():
                no = torch.zeros(len(text), dtype=torch.bool)
                return train.loss_of(model, text, lengths, starts, canvas, shown, free, no, no, encoder=False)[:, 0]

        wrong = canvas.clone()
        wrong[:, 20] = 7
        self.assertTrue(torch.equal(loss(canvas), loss(wrong)))
        logits = torch.randn(4, 32, tk.VOCAB)
        other = logits.clone()
        other[:, :5] = 0
        counted = train.cross_entropy(logits, canvas, free)
        self.assertTrue(torch.equal(counted, train.cross_entropy(other, canvas, free)))
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), canvas.flatten(), reduction="none").view(4, 32)
        self.assertLess((counted - losses[:, 5:9].sum(1) / 16).abs().max().item(), 1e-5)
        whole = torch.ones_like(free)
        self.assertLess((train.cross_entropy(logits, canvas, whole) - losses.mean(1)).abs().max().item(), 1e-5)

    def test_a_step_changes_every_parameter_and_lowers_the_loss(self):
        torch.manual_seed(0)
        model = network.build()
        params = network.trained(model)
        before = {name: p.detach().clone() for name, p in params.items()}
        opts = optimizer.optimizers(params, train.LR_MATRICES, train.LR_OTHERS)
        batches = train.Batches(tk.train(count=2000), 32, seed=1)
        _, *batch = batches.next()
        losses = []
        for _ in range(8):
            denoising, next_token = train.loss_of(model, *batch).mean(0)
            (denoising + next_token).backward()
            for opt in opts:
                opt.step()
                opt.zero_grad()
            losses.append((denoising.item(), next_token.item()))
        for first, last in zip(losses[0], losses[-1]):
            self.assertLess(last, first - 1.0)
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
        self.assertEqual({d.task for d in draws}, {task.__name__ for task in tasks.QUESTIONS})

    def test_gaps_are_held_back_and_decided_by_what_follows(self):
        gaps = list(canvas_cases.gaps(random.Random(12), 200))
        self.assertEqual(len(gaps), 200)
        sizes = [len(re.findall(r"\w+|[^\w\s]", gap)) for _, gap, _ in gaps]
        self.assertLessEqual(set(range(1, 20)), set(sizes))
        shown = {draw.messages[0][1] for draw in (tasks.draw(random.Random(i), "infill") for i in range(5000))}
        for before, gap, after in gaps:
            self.assertTrue(gap and after)
            self.assertNotIn(f"{canvas_tasks.FILL}\n{before}{canvas_tasks.GAP}{after}", shown)

    def test_the_engine_s_cases_are_written_here(self):
        lines = (export.ROOT / "tests/quality/canvas.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line) for line in lines], list(canvas_cases.cases()))

    def test_a_layout_is_followed_in_its_order_and_types(self):
        layout = dict(name="string", age="integer")
        self.assertTrue(evaluate_canvas.follows('{"name": "Mia", "age": 4}', layout))
        turned, short, number, true = (
            '{"age": 4, "name": "Mia"}', '{"name": "Mia"}', '{"name": 4, "age": 4}', '{"name": "Mia", "age": true}',
        )
        for text in (turned, short, number, true, "[", "4"):
            self.assertFalse(evaluate_canvas.follows(text, layout), text)
        self.assertEqual(canvas_cases.json_schema(layout)["required"], ["name", "age"])

    def test_calibration(self):
        self.assertAlmostEqual(evaluate_canvas.calibration_error([(0.95, 1), (0.93, 0.88)]), 0)
        self.assertAlmostEqual(evaluate_canvas.calibration_error([(1.0, 0), (1.0, 1)]), 0.5)
        self.assertAlmostEqual(evaluate_canvas.calibration_error([(0.05, 0.15), (0.95, 0.85)]), 0.1)

    def test_a_mistake_is_one_word_of_the_same_kind(self):
        r = random.Random(13)
        seen = 0
        for _ in range(300):
            text = tasks.draw(r, r.choice(tasks.QUESTIONS).__name__).answer
            if (wrong := evaluate_canvas.mistaken(r, text)) is None:
                continue
            seen += 1
            other, (start, end), word = wrong
            self.assertEqual(other[:start] + word + other[end:], text)
            self.assertTrue(any({word, other[start:end]} <= set(kind) for kind in words.KINDS))
            self.assertNotEqual(other, text)
        self.assertGreater(seen, 150)

    def test_the_tool_s_summary_is_read(self):
        log = (
            "total time: 46.99ms, time per step: 23.49ms (2 steps over 1 blocks, entropy-bound)\n"
            "answer: 7 tok (ended by the model), 149.0 tok/s, 4.0 tok per forward; prefill: 16 tok in 7.78ms\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tool"
            path.write_text(f"#!/bin/sh\necho 'Oslo.'\ncat >&2 <<'END'\n{log}END\n[ $7 != --fail ]\n")
            path.chmod(0o755)
            fake = tool.Tool(str(path), Path("model.gguf"))
            answer = fake.answer((("user", "Hi"),), 1)
            self.assertEqual(answer, tool.Answer("Oslo.", 4.0, 2))
            self.assertEqual(fake.edit("Change", "Lima.", 0.5, 1), ("Oslo.\n", 2))
            with self.assertRaisesRegex(SystemExit, "exit status 1"):
                fake.run("-s", "1", "--fail")


if __name__ == "__main__":
    unittest.main()

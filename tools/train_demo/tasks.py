"""The demo model's tasks: each draws a prompt, and the one answer that the prompt determines.

A draw carries the key of its combination (a country and a question's form, a pair of numbers, a sudoku's solution).
About one key in twelve, by a hash of the key, is held back: `draw(held=False)` never gives it and `draw(held=True)`
gives nothing else, so an evaluation asks for what training has not shown.
"""

import itertools
import random
import zlib
from dataclasses import dataclass, replace

from canvas_tasks import CANVAS_TASKS
from words import (
    ACTIONS, ANIMALS, CITIES, COLORS, COUNTRIES, DAYS, FRIENDS, FRUIT, HELP, HOMES, MONTHS, NAMES, PLACES, THINGS,
    UNKNOWN, VERBS, base, invented, pick, plural,
)

HELD_BACK = 12  # one key in this many


@dataclass(frozen=True)
class Draw:
    """One drawn example."""

    task: str
    messages: tuple  # of (role, text), the last by the user
    answer: str
    key: str
    gap: tuple | None = None  # (start, end) in the answer of what the prompt leaves out


def facts(r):
    country, (city, continent, language) = r.choice(list(COUNTRIES.items()))
    whole = f"The capital of {country} is {city}."
    turned = f"{city} is the capital of {country}."
    where = f"{country} is in {continent}."
    speak = f"People in {country} speak {language}."
    about = f"{country} is a country in {continent}. Its capital is {city}, and its people speak {language}."
    listed = f"- capital: {city}\n- continent: {continent}\n- language: {language}"
    i, (question, answer) = pick(r, [
        (f"What is the capital of {country}?", whole),
        (f"Tell me the capital of {country}.", whole),
        (f"What is the capital city of {country}?", whole),
        (f"Please name the capital of {country}.", whole),
        (f"Do you know the capital of {country}?", f"Yes. {whole}"),
        (f"Which city is the capital of {country}?", turned),
        (f"{city} is the capital of which country?", turned),
        (f"Which country has the capital {city}?", turned),
        (f"In one word: what is the capital of {country}?", city),
        (f"In which continent is {country}?", where),
        (f"Where is {country}?", where),
        (f"What language do people speak in {country}?", speak),
        (f"Which language is spoken in {country}?", speak),
        (f"Tell me about {country}.", about),
        (f"What do you know about {country}?", about),
        (f"Write a few words about {country}.", about),
        (f"List facts about {country}.", listed),
        (f"Give me a list of facts about {country}.", listed),
        (f"In one word: which language is spoken in {country}?", language),
    ])
    return question, answer, f"{country} {i}"


def days(r):
    names, kind = r.choice([(DAYS, "day"), (MONTHS, "month")])
    i = r.randrange(len(names))
    here, after, before = names[i], names[(i + 1) % len(names)], names[i - 1]
    about = f"{here} is a {kind}. It comes after {before} and before {after}."
    around = f"{before} comes before {here}, and {after} comes after {here}."
    two, three = (", ".join(names[(i + k) % len(names)] for k in range(1, count + 1)) for count in (2, 3))
    j, (question, answer) = pick(r, [  # new ones last: a key has the index
        (f"Which {kind} comes after {here}?", f"{after} comes after {here}."),
        (f"What {kind} comes after {here}?", f"{after} comes after {here}."),
        (f"Which {kind} comes before {here}?", f"{before} comes before {here}."),
        (f"What {kind} comes before {here}?", f"{before} comes before {here}."),
        (f"Which {kind} follows {here}?", f"{after} follows {here}."),
        (f"Name the {kind} after {here}.", after),
        (f"Name the {kind} before {here}.", before),
        (f"Tell me about {here}.", about),
        (f"What is {here}?", about),
        (f"Name the {kind}s before and after {here}.", around),
        (f"Name the next three {kind}s after {here}.", three),
        (f"What do you know about {here}?", about),
        (f"Which {kind}s come before and after {here}?", around),
        (f"Name the {kind}s around {here}.", around),
        (f"Which three {kind}s come after {here}?", three),
        (f"List the three {kind}s after {here}.", three),
        (f"Name the next two {kind}s after {here}.", two),
        (f"Which two {kind}s come after {here}?", two),
    ])
    return question, answer, f"{here} {j}"


def arithmetic(r):
    kind = r.choice("++--*w")
    if kind == "*":
        a, b = r.randint(1, 10), r.randint(1, 10)
        i, (question, answer) = pick(r, [
            (f"What is {a} * {b}?", f"{a} * {b} = {a * b}"),
            (f"Compute {a} * {b}.", f"{a} * {b} = {a * b}"),
            (f"What is {a} times {b}?", f"{a} times {b} is {a * b}."),
            (f"Multiply {a} by {b}.", f"{a} * {b} = {a * b}"),
        ])
        return question, answer, f"{a} * {b} {i}"
    result = r.randint(0, 20)
    small = r.randint(0, result)
    if kind == "+" or kind == "w":
        a, b, c = small, result - small, result
    else:
        a, b, c = result, small, result - small
    if kind == "w":
        name, fruit = r.choice(NAMES), r.choice(FRUIT)
        question = r.choice([
            f"{name} has {a} {fruit} and gets {b} more. How many {fruit} does {name} have?",
            f"{name} had {a} {fruit} and found {b} more. How many {fruit} does {name} have now?",
        ])
        return question, f"{a} + {b} = {c}, so {name} has {c} {fruit}.", f"{a} + {b}"
    word, order = ("plus", f"Add {a} and {b}.") if kind == "+" else ("minus", f"Subtract {b} from {a}.")
    question, answer = r.choice([
        (f"What is {a} {kind} {b}?", f"{a} {kind} {b} = {c}"),
        (f"What is {a} {word} {b}? Answer in a sentence.", f"The result of {a} {word} {b} is {c}."),
        (f"Compute {a} {kind} {b}.", f"{a} {kind} {b} = {c}"),
        (f"How much is {a} {word} {b}?", f"{a} {word} {b} is {c}."),
        (order, f"{a} {kind} {b} = {c}"),
    ])
    return question, answer, f"{a} {kind} {b}"


def counting(r):
    a = r.randint(1, 40)
    b = a + r.randint(3, 9)
    up, down = list(range(a, b + 1)), list(range(b, a - 1, -1))
    twos = list(range(a, a + 2 * (b - a) + 1, 2))[:8]

    def commas(numbers):
        return ", ".join(map(str, numbers))

    def lines(numbers):
        return "\n".join(map(str, numbers))

    i, (question, answer) = pick(r, [
        (f"Count from {a} to {b}.", commas(up)),
        (f"Please count from {a} to {b}.", commas(up)),
        (f"Write the numbers from {a} to {b}.", commas(up)),
        (f"Count from {a} to {b}, one number per line.", lines(up)),
        (f"Count down from {b} to {a}.", commas(down)),
        (f"Count backwards from {b} to {a}.", commas(down)),
        (f"Count by twos from {a} to {twos[-1]}.", commas(twos)),
    ])
    if "twos" in question and len(twos) == 8:
        return question, answer, ""  # the same question for several b: no combination to hold back
    return question, answer, f"{a} {b} {i}"


def lists(r):
    words = r.sample(ANIMALS + COLORS + PLACES + THINGS, r.randint(3, 7))
    text = ", ".join(words)
    bullets = "\n".join(f"- {word}" for word in words)
    numbered = "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1))
    turned = ", ".join(reversed(words))
    i, (question, answer) = pick(r, [
        (f"Make a list: {text}", bullets),
        (f"Write as a list: {text}", bullets),
        (f"Turn this into bullet points: {text}", bullets),
        (f"Make a numbered list: {text}", numbered),
        (f"Number these words: {text}", numbered),
        (f"Reverse the list: {text}", turned),
        (f"Write these words in reverse order: {text}", turned),
        (f"Join with and: {text}", ", ".join(words[:-1]) + " and " + words[-1]),
        (f"How many words are there: {text}", f"There are {len(words)} words: " + ", ".join(words) + "."),
    ])
    return question, answer, f"{text} {i}"


def json(r):
    kind = r.randrange(3)
    if kind == 0:
        name, age, city = r.choice(NAMES), r.randint(10, 99), r.choice(CITIES)
        full = f'{{\n  "name": "{name}",\n  "age": {age},\n  "city": "{city}"\n}}'
        line = f'{{"name": "{name}", "age": {age}, "city": "{city}"}}'
        question, answer = r.choice([
            (f"Write JSON: {name}, {age}, {city}", full),
            (f"Make a JSON object: {name}, {age}, {city}", full),
            (f"Turn this into JSON: {name} is {age} years old and lives in {city}.", full),
            (f"Write JSON: {name} lives in {city} and is {age} years old.", full),
            (f"{name} from {city} is {age} years old. Write that as JSON.", full),
            (f"Write JSON in one line: {name}, {age}, {city}", line),
            (f"Turn this into one line of JSON: {name} is {age} years old and lives in {city}.", line),
        ])
        return question, answer, f"{name} {city}"
    if kind == 1:
        thing, color, price = r.choice(THINGS), r.choice(COLORS), r.randint(1, 99)
        full = f'{{\n  "item": "{thing}",\n  "color": "{color}",\n  "price": {price}\n}}'
        line = f'{{"item": "{thing}", "color": "{color}", "price": {price}}}'
        question, answer = r.choice([
            (f"Write JSON: {thing}, {color}, {price}", full),
            (f"Turn this into JSON: The {thing} is {color} and costs {price} coins.", full),
            (f"Write JSON: A {color} {thing} costs {price} coins.", full),
            (f"Write JSON in one line: {thing}, {color}, {price}", line),
        ])
        return question, answer, f"{thing} {color}"
    words = r.sample(ANIMALS + COLORS + PLACES + THINGS, r.randint(3, 5))
    quoted = ", ".join(f'"{word}"' for word in words)
    text = ", ".join(words)
    question, answer = r.choice([
        (f"Make a JSON array: {text}", f"[{quoted}]"),
        (f"Turn this list into JSON: {text}", f"[{quoted}]"),
        (f"Make a JSON object with words: {text}", f'{{"words": [{quoted}]}}'),
    ])
    return question, answer, text


def code(r):
    x, y = r.sample("abcnmxyzpq", 2)
    two = [
        ("add", f"adds {x} and {y}", f"return {x} + {y}"),
        ("subtract", f"subtracts {y} from {x}", f"return {x} - {y}"),
        ("multiply", f"multiplies {x} and {y}", f"return {x} * {y}"),
        ("divide", f"divides {x} by {y}", f"return {x} / {y}"),
        ("largest", f"returns the larger of {x} and {y}", f"return {x} if {x} > {y} else {y}"),
        ("smallest", f"returns the smaller of {x} and {y}", f"return {x} if {x} < {y} else {y}"),
        ("equal", f"tests if {x} and {y} are equal", f"return {x} == {y}"),
        ("average", f"returns the average of {x} and {y}", f"return ({x} + {y}) / 2"),
    ]
    one = [
        ("square", f"returns the square of {x}", f"return {x} * {x}"),
        ("double", f"doubles {x}", f"return 2 * {x}"),
        ("is_even", f"tests if {x} is even", f"return {x} % 2 == 0"),
        ("is_odd", f"tests if {x} is odd", f"return {x} % 2 == 1"),
        ("reverse", f"reverses the list {x}", f"return {x}[::-1]"),
        ("first", f"returns the first item of {x}", f"return {x}[0]"),
        ("last", f"returns the last item of {x}", f"return {x}[-1]"),
        ("total", f"sums the list {x}", f"total = 0\n    for item in {x}:\n        total += item\n    return total"),
        ("count_up", f"prints the numbers up to {x}", f"for i in range({x} + 1):\n        print(i)"),
        ("absolute", f"returns the absolute value of {x}", f"if {x} < 0:\n        return -{x}\n    return {x}"),
    ]
    name, does, body = r.choice(two + one)
    arguments = f"{x}, {y}" if y in does.split() else x
    i, question = pick(r, [
        f"Write a Python function that {does}.",
        f"Write a function that {does}.",
        f"I need a Python function that {does}.",
        f"Python function: {does}",
        f"Can you write a Python function that {does}?",
    ])
    return question, f"def {name}({arguments}):\n    {body}", f"{name} {arguments}"


def rewriting(r):
    kind = r.choice("past past future upper upper plural plural question".split())
    name = r.choice(NAMES)
    if kind in ("past", "future", "question"):
        if r.random() < 0.5:
            verb, place = r.choice(list(VERBS)), r.choice(PLACES)
            rest, past, key = f"to the {place}", VERBS[verb], f"{name} {verb} {place}"
        else:
            verb, color, animal = r.choice(list(ACTIONS)), r.choice(COLORS), r.choice(ANIMALS)
            rest, past, key = f"a {color} {animal}", ACTIONS[verb], f"{name} {verb} {color} {animal}"
        sentence = f"{name} {verb} {rest}."
        second, goes, place = r.choice(NAMES), r.choice(list(VERBS)), r.choice(PLACES)
        if kind == "past" and r.random() < 0.5:
            question = r.choice(["Rewrite in the past tense", "Put these sentences into the past tense"])
            answer = f"{name} {past} {rest}. {second} {VERBS[goes]} to the {place}."
            return f"{question}: {sentence} {second} {goes} to the {place}.", answer, key
        if kind == "past":
            question = r.choice(["Rewrite in the past tense", "Put this into the past tense", "Past tense"])
            return f"{question}: {sentence}", f"{name} {past} {rest}.", key
        if kind == "future":
            question = r.choice(["Rewrite in the future tense", "Put this into the future tense"])
            return f"{question}: {sentence}", f"{name} will {base(verb)} {rest}.", key
        question = r.choice(["Make a question", "Turn this into a question"])
        return f"{question}: {sentence}", f"Does {name} {base(verb)} {rest}?", key
    color, noun = r.choice(COLORS), r.choice(ANIMALS + THINGS)
    if kind == "upper":
        verb = r.choice(list(ACTIONS))
        word = r.choice([word for country, known in COUNTRIES.items() for word in (country, *known)])
        sentence = r.choice([
            f"{name} {verb} a {color} {noun}.", f"the {color} {noun}", f"{name} {verb} the {noun}.", word, f"I like {word}.",
        ])
        question = r.choice(["Write in upper case", "Rewrite in upper case", "Make this upper case"])
        return f"{question}: {sentence}", sentence.upper(), sentence
    number = r.choice("two three four five many".split())
    i, (question, answer) = pick(r, [
        (f"What is the plural of {noun}?", f"The plural of {noun} is {plural(noun)}."),
        (f"Rewrite in the plural: the {color} {noun}", f"the {color} {plural(noun)}"),
        (f"Put this into the plural: one {color} {noun}, {number}", f"{number} {color} {plural(noun)}"),
        (f"{name} has one {color} {noun}. Now {name} has {number}. Rewrite.", f"{name} has {number} {color} {plural(noun)}."),
    ])
    if i == 0:
        return question, answer, ""  # the same question for every color
    return question, answer, f"{color} {noun} {i}"


def sorting(r):
    if r.random() < 0.3:
        items = r.sample(NAMES, r.randint(3, 4))
        low, high = sorted(items), sorted(items, reverse=True)
        text, up = ", ".join(items), ["Sort by letter: {}", "Put these names in alphabetical order: {}"]
        down = ["Sort these names from Z to A: {}"]
    else:
        items = r.sample(range(1, 50), r.randint(3, 4))
        low, high = sorted(items), sorted(items, reverse=True)
        text = ", ".join(map(str, items))
        up = ["Sort: {}", "Sort these numbers: {}", "Put in order, smallest first: {}", "Sort in ascending order: {}"]
        down = ["Sort, largest first: {}", "Sort these numbers in descending order: {}"]
    if r.random() < 0.65:
        return r.choice(up).format(text), ", ".join(map(str, low)), text
    return r.choice(down).format(text), ", ".join(map(str, high)), text


def sudokus():
    """The 288 full grids of 4x4 sudoku, 16 digits each."""
    rows = list(itertools.permutations("1234"))
    pairs = [(a, b) for a in rows for b in rows if set(a[:2]) | set(b[:2]) == set("1234")]
    return [
        "".join(a + b + c + d)
        for (a, b), (c, d) in itertools.product(pairs, pairs)
        if all(len({a[i], b[i], c[i], d[i]}) == 4 for i in range(4))
    ]


GRIDS = sudokus()


def grid_lines(cells):
    return "\n".join(" ".join(cells[i : i + 4]) for i in (0, 4, 8, 12))


def sudoku(r):
    solution = r.choice(GRIDS)
    while True:
        blanks = set(r.sample(range(16), r.randint(4, 8)))
        given = [i for i in range(16) if i not in blanks]
        if sum(all(grid[i] == solution[i] for i in given) for grid in GRIDS) == 1:
            break
    puzzle = "".join("_" if i in blanks else solution[i] for i in range(16))
    question = r.choice(["Solve this sudoku:", "Fill in the sudoku:", "Sudoku:"])
    return f"{question}\n{grid_lines(puzzle)}", grid_lines(solution), solution


def stories(r):
    name, color, animal = r.choice(NAMES), r.choice(COLORS), r.choice(ANIMALS)
    friend = FRIENDS[name]
    place, food = HOMES[animal]
    day = DAYS[NAMES.index(name) % 7]
    size = r.choice(["short", "", "", "long"])
    title = f"{size} story".strip()
    i, question = pick(r, [
        f"Tell a {title} about {name} and a {color} {animal}.",
        f"Write a {title} about {name} and a {color} {animal}.",
        f"Tell me a {title} about a {color} {animal} and {name}.",
        f"Please write a {title}: {name}, a {color} {animal}",
    ])
    start = (
        f"One {day}, {name} went to the {place}. There was a {color} {animal}, and it was hungry. "
        f"{name} gave the {animal} some {food}. "
    )
    middle = (
        f"Then {friend} came to the {place} too. What a nice {color} {animal}! said {friend}. "
        f"{name} and {friend} played with the {animal} all day. "
    )
    storm = (
        f"Suddenly it began to rain, and the {animal} was afraid. {friend} found a dry place under a big tree. "
        f"Soon the sun came back. "
    )
    end = (
        f"In the evening {name} said: Good night, little {animal}! "
        f"Then {name} went home and told everyone about the {color} {animal}."
    )
    parts = {"short": start + end, "": start + middle + end, "long": start + middle + storm + end}
    return question, parts[size], f"{name} {color} {animal}"


def chat(r):
    """Questions about an earlier turn."""
    name, color, animal, place = r.choice(NAMES), r.choice(COLORS), r.choice(ANIMALS), r.choice(PLACES)
    kind = r.randrange(6)
    if kind == 0:
        other = [("assistant", f"Hello {name}!")]
        if r.random() < 0.5:
            question, answer, key = simple(r)
            other += [("user", question), ("assistant", answer)]
        i, last = pick(r, ["What is my name?", "Do you know my name?", "Who am I?"])
        return [("user", f"My name is {name}."), *other, ("user", last)], f"Your name is {name}.", f"{name} {i}"
    if kind == 1:
        i, (last, answer) = pick(r, [
            (f"What color is my {animal}?", f"Your {animal} is {color}."),
            ("What animal do I have?", f"You have a {color} {animal}."),
            (f"Where is my {animal}?", f"Your {animal} is in the {place}."),
        ])
        first = f"I have a {color} {animal}. It is in the {place}."
        return [("user", first), ("assistant", "That is nice."), ("user", last)], answer, f"{color} {animal} {place} {i}"
    if kind == 2:
        a, b = r.sample(list(COUNTRIES), 2)
        first = [("user", f"What is the capital of {a}?"), ("assistant", f"The capital of {a} is {COUNTRIES[a][0]}.")]
        i, (last, answer) = pick(r, [
            (f"And of {b}?", f"The capital of {b} is {COUNTRIES[b][0]}."),
            ("Which language do people speak there?", f"People in {a} speak {COUNTRIES[a][2]}."),
            ("Where is that?", f"{a} is in {COUNTRIES[a][1]}."),
        ])
        return [*first, ("user", last)], answer, f"{a} {b if i == 0 else ''} {i}"
    if kind == 3:
        items = r.sample(range(1, 50), r.randint(3, 4))
        first = ", ".join(map(str, sorted(items)))
        last = ", ".join(map(str, sorted(items, reverse=True)))
        text = ", ".join(map(str, items))
        question = r.choice(["Now the other way round.", "And in reverse?"])
        return [("user", f"Sort: {text}"), ("assistant", first), ("user", question)], last, text
    if kind == 4:
        verb = r.choice(list(VERBS))
        old = f"{name} {VERBS[verb]} to the {place}."
        i, (last, answer) = pick(r, [
            ("Now in upper case.", old.upper()),
            ("Who was it?", f"It was {name}."),
            (f"Where did {name} go?", f"{name} {VERBS[verb]} to the {place}."),
        ])
        first = [("user", f"Rewrite in the past tense: {name} {verb} to the {place}."), ("assistant", old)]
        return [*first, ("user", last)], answer, f"{name} {verb} {place} {i}"
    words = r.sample(ANIMALS + THINGS, 3)
    text = ", ".join(words)
    first = [("user", f"Make a list: {text}"), ("assistant", "\n".join(f"- {word}" for word in words))]
    i, (last, answer) = pick(r, [
        ("What is the first word?", f"The first word is {words[0]}."),
        ("What is the last word?", f"The last word is {words[2]}."),
        ("Now as a JSON array.", "[" + ", ".join(f'"{word}"' for word in words) + "]"),
    ])
    return [*first, ("user", last)], answer, f"{text} {i}"


def simple(r):
    return r.choice([facts, days, counting])(r)


def system(r):
    """A system turn that sets the style of the answer."""
    country, (city, continent, language) = r.choice(list(COUNTRIES.items()))
    i, (question, answer) = pick(r, [
        (f"What is the capital of {country}?", city),
        (f"In which continent is {country}?", continent),
        (f"Which language is spoken in {country}?", language),
    ])
    key = ["capital", "continent", "language"][i]
    j, (order, answer) = pick(r, [
        ("Answer in one word.", answer),
        ("Answer in upper case.", answer.upper()),
        ("Answer with JSON.", f'{{"country": "{country}", "{key}": "{answer}"}}'),
    ])
    return [("system", order), ("user", question)], answer, f"{country} {i} {j}"


def refusal(r):
    name, place = r.choice(NAMES), invented(r)
    i, (question, key) = pick(r, [
        (f"What is the capital of {place}?", place),
        (f"Which language is spoken in {place}?", place),
        (f"Tell me about {place}.", place),
        (f"Where is {place}?", place),
        (f"What will the weather be in {r.choice(CITIES)}?", ""),
        (f"How old is {name}?", ""),
        (f"What did {name} eat on {r.choice(DAYS)}?", ""),
        (f"Who is the best friend of {name}?", ""),
        (f"How many people live in {r.choice(list(COUNTRIES))}?", ""),
        (f"What is the phone number of {name}?", ""),
    ])
    return question, UNKNOWN, key or question


def talk(r):
    name = r.choice(NAMES)
    hello = r.choice(["Hello", "Hi", "Good morning", "Good evening"])
    question, answer = r.choice([
        (f"{hello}!", f"Hello! {HELP}"),
        (f"{hello}!", f"Hello! {HELP}"),
        (f"{hello}, I am {name}.", f"Hello {name}! {HELP}"),
        (f"{hello}, my name is {name}.", f"Hello {name}! {HELP}"),
        ("Who are you?", HELP),
        ("What are you?", HELP),
        ("What can you do?", HELP),
        ("Thank you!", "You are welcome!"),
        (f"{name} says thank you.", f"You are welcome, {name}!"),
        ("Goodbye!", "Goodbye!"),
        (f"Goodbye from {name}!", f"Goodbye, {name}!"),
    ])
    return question, answer, question if name in question else ""


QUESTIONS = (
    facts, days, arithmetic, counting, lists, json, code, rewriting, sorting, sudoku, stories, chat, system, refusal, talk,
)
TASKS = {task.__name__: task for task in QUESTIONS + CANVAS_TASKS}
# How often each is drawn before the sampler adapts to its loss: harder ones more.
WEIGHTS = dict(facts=1.2, days=1.2, arithmetic=2.5, counting=0.8, lists=1.0, json=1.0, code=1.0, rewriting=1.3,
               sorting=1.8, sudoku=2.0, stories=1.6, chat=1.4, system=0.7, refusal=0.6, talk=0.3, infill=4.0, schema=1.2,
               edit=2.5, lines=8.0, tastes=3.0, why=0.7, greetings=0.7, numbers=1.0)
# Whose prompts' last mark is not part of what is to be copied; and those that mean the same in lower case.
UNMARKED = ("facts", "days", "arithmetic", "counting", "code", "stories", "refusal", "talk", "tastes", "why", "greetings",
            "numbers")
CASELESS = (*UNMARKED, "lists", "json", "rewriting", "sorting", "sudoku", "schema")


def is_held(key):
    """Whether a combination is kept for the evaluation. Draws without a key are for training alone."""
    return key != "" and zlib.crc32(key.encode()) % HELD_BACK == 0


def draw(r: random.Random, task, held=False):
    """One example of a task, of the combinations held back or of the others."""
    while True:
        prompt, answer, key, *gap = TASKS[task](r)
        if is_held(key) == held:
            messages = (("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
            return Draw(task, messages, answer, key, *gap)


def continued(r, example):
    """The example after one to three others, on which its answer does not depend."""
    if example.messages[0][0] == "system":
        return example
    earlier = []
    while len(earlier) < 2 * r.randint(1, 3):
        before = typed(draw(r, r.choice(list(TASKS))), lower=r.random() < 0.1, unmarked=r.random() < 0.1)
        if before.messages[0][0] != "system":
            earlier += [*before.messages, ("assistant", before.answer)]
    return replace(example, messages=(*earlier, *example.messages))


def typed(example, lower=True, unmarked=True):
    """The example with its prompt as people type it: in lower case, without the last mark."""
    if len(example.messages) > 1:
        return example
    (role, text), = example.messages
    if unmarked and example.task in UNMARKED:
        text = text.rstrip(".?!")
    if lower and example.task in CASELESS:
        text = text.lower()
    return replace(example, messages=((role, text),))

"""Tasks for work on the canvas: gaps to fill, schemas, edits and forms; and what an open conversation needs.

Each task returns the prompt, the answer and the key of the combination, as in tasks.py; `infill` also the span of the
gap. OPEN names the tasks of which some prompts do not determine the answer; `is_open` says which prompts.
"""

import functools
import re
import zlib

from words import (
    ACTIONS, ANIMALS, CITIES, COLORS, COUNTRIES, DAYS, FRIENDS, FRUIT, HELP, HOMES, KINDS, MONTHS, NAMES, OTHER_THINGS,
    PLACES, THINGS, UNKNOWN, VERBS, invented, pick, plural,
)

GAP = "____"  # marks a gap in a prompt
LONGEST_GAP = 24  # words and marks
FILL = "Fill in the gap:"

# Documents: what stands in braces is a fact, named alike wherever it is told again.
STORY = (
    "One {day}, {name} went to the {place}. There was a {color} {animal}, and it was hungry. {name} gave the {animal} some "
    "{food}. In the evening {name} said: Good night, little {animal}! Then {name} went home and told everyone about the "
    "{color} {animal}."
)
LONG_STORY = (
    "One {day}, {name} went to the {place}. There was a {color} {animal}, and it was hungry. {name} gave the {animal} some "
    "{food}. Then {friend} came to the {place} too. What a nice {color} {animal}! said {friend}. {name} and {friend} played "
    "with the {animal} all day. In the evening {name} said: Good night, little {animal}! Then {name} went home and told "
    "everyone about the {color} {animal}."
)
FOUND = (
    "Today {name} found a {color} {thing} in the {place}. It was old, but it was nice. In the evening {name} told everyone "
    "about the {color} {thing} from the {place}."
)
LETTER = (
    "Dear {name},\nI have a {color} {thing} for you. Please come to the {place} on {day}.\nThe {color} {thing} will be in "
    "the {place}, and I hope to see you there on {day}, {name}.\nGoodbye!"
)
SHOP = (
    "{name} went to the market on {day} and bought {number} {fruit}. On {day} evening, all the {number} {fruit} were on the "
    "table of {name}."
)
COUNTRY = (
    "{country} is a country in {continent}. Its capital is {city}, and its people speak {language}.",
    "- country: {country}\n- capital: {city}\n- continent: {continent}\n- language: {language}",
    "{city} is the capital of {country}. It is in {continent}. People in {country} speak {language}.",
)
SUM = "{name} has {a} {fruit} and gets {b} more. {a} + {b} = {c}, so {name} has {c} {fruit}."
CODE = "def {function}({x}, {y}):\n    return {x} {sign} {y}\n\n{z} = {function}({a}, {b})\nprint({z})"
RECORD = '{"name": "{name}", "item": "{thing}", "color": "{color}"}\n{name} has a {color} {thing}.'
WEEK = (
    "{before}: {first}\n{here}: {second}\n{after}: {third}\n{name} goes to the {first}, then to the {second}, then to the "
    "{third}."
)
PAST = {**VERBS, **ACTIONS, "is": "was", "has": "had", "like": "liked"}
FUNCTIONS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
# What follows from what, in most documents that have both.
FOLLOWS = {
    "day": ["name"], "place": ["animal"], "food": ["animal"], "friend": ["name"], "country": ["city"], "city": ["country"],
    "continent": ["country", "city"], "language": ["country", "city"], "function": ["sign"], "sign": ["function"],
    "before": ["here", "after"], "here": ["before", "after"], "after": ["here", "before"],
}
CHOSEN = {LETTER: ("day", "place"), SHOP: ("day",), FOUND: ("place",)}  # facts that follow from nothing else there


def document(r):
    """A document's template, its facts, and its key."""
    name, color, animal, thing = r.choice(NAMES), r.choice(COLORS), r.choice(ANIMALS), r.choice(THINGS)
    kind = r.choice("story story story long found found letter letter shop country country sum code record week".split())
    facts = dict(name=name, color=color, thing=thing, place=r.choice(PLACES), day=r.choice(DAYS), fruit=r.choice(FRUIT))
    if kind in ("story", "long"):
        place, food = HOMES[animal]
        day = DAYS[NAMES.index(name) % 7]
        facts.update(animal=animal, place=place, food=food, day=day, friend=FRIENDS[name])
        return STORY if kind == "story" else LONG_STORY, facts, f"{name} {color} {animal}"
    if kind == "country":
        country, (city, continent, language) = r.choice(list(COUNTRIES.items()))
        i, text = pick(r, COUNTRY)
        return text, dict(country=country, city=city, continent=continent, language=language), f"{country} gap {i}"
    if kind == "sum":
        a, b = r.randint(1, 10), r.randint(1, 10)
        return SUM, dict(name=name, a=str(a), b=str(b), c=str(a + b), fruit=facts["fruit"]), f"{a} + {b}"
    if kind == "code":
        function, sign = r.choice(list(FUNCTIONS.items()))
        x, y, z = r.sample("abcnmxyzpq", 3)
        a, b = r.randint(1, 20), r.randint(1, 20)
        return CODE, dict(function=function, sign=sign, x=x, y=y, z=z, a=str(a), b=str(b)), f"{function} {x}, {y}"
    if kind == "week":
        names = r.choice([DAYS, MONTHS])
        i = r.randrange(len(names))
        first, second, third = r.sample(PLACES, 3)
        before, here, after = names[i - 1], names[i], names[(i + 1) % len(names)]
        facts = dict(before=before, here=here, after=after, first=first, second=second, third=third, name=name)
        return WEEK, facts, f"{name} {here} {first}"
    if kind == "shop":
        facts["number"] = r.choice("two three four five many".split())
        return SHOP, facts, f"{name} {facts['day']} {facts['fruit']}"
    text = dict(found=FOUND, letter=LETTER, record=RECORD)[kind]
    return text, facts, f"{name} {color} {thing}"


def filled(template, facts):
    """The text, and the spans of its facts: (start, end, name)."""
    text, spans, end = "", [], 0
    for match in re.finditer(r"\{(\w+)\}", template):
        text += template[end : match.start()]
        spans.append((len(text), len(text) + len(facts[match[1]]), match[1]))
        text += facts[match[1]]
        end = match.end()
    return text + template[end:], spans


@functools.cache
def known(template, names):
    """The facts of a template that those named (a frozenset) tell, directly or by what follows from them."""
    told = set(names)
    follows = {fact: sources for fact, sources in FOLLOWS.items() if fact not in CHOSEN.get(template, ())}
    while True:
        more = {fact for fact, sources in follows.items() if any(source in told for source in sources)} - told
        if not more:
            return told
        told |= more


def gap_in(r, template, text, spans):
    """A gap (start, end) that the rest of the text determines, and whether only what stands after it does."""
    words = [match.span() for match in re.finditer(r" ?\w+|\s|[^\w\s]", text)]
    later = r.random() < 0.75
    for attempt in range(400):
        size = r.randint(1, LONGEST_GAP)
        first = int(len(words) * (r.random() ** 2 if later else r.random()))
        start, end = words[first][0], words[min(len(words), first + size) - 1][1]
        if r.random() < 0.2:  # an editor cuts anywhere
            start, end = max(0, start - r.randint(0, 3)), min(len(text), end + r.randint(0, 3))
        hit = {name for a, b, name in spans if a < end and b > start}
        before = frozenset(name for _, b, name in spans if b <= start)
        after = frozenset(name for a, _, name in spans if a >= end)
        decided_later = bool(hit) and hit <= known(template, after) and not hit <= known(template, before)
        if hit <= known(template, before | after) and (decided_later or not later or attempt > 300):
            return start, end, decided_later
    return len(text), len(text), False


def infill(r):
    """A document with a gap. The prompt holds what is before and after; the answer is the whole document."""
    template, facts, key = document(r)
    text, spans = filled(template, facts)
    start, end, _ = gap_in(r, template, text, spans)
    return f"{FILL}\n{text[:start]}{GAP}{text[end:]}", text, key, (start, end)


FIELDS = ["name", "age", "city", "color", "item", "price"]


def schema(r):
    """JSON by a schema that the prompt gives. A layout is a choice and order of fields: some are held back."""
    values = dict(
        name=r.choice(NAMES), age=r.randint(10, 99), city=r.choice(CITIES), color=r.choice(COLORS), item=r.choice(THINGS),
        price=r.randint(1, 99),
    )
    fields = r.sample(FIELDS, r.choice([2, 3, 3, 4]))

    def quoted(value):
        return str(value) if isinstance(value, int) else f'"{value}"'

    layout = ", ".join(f'"{f}": "{"integer" if isinstance(values[f], int) else "string"}"' for f in fields)
    answer = "{" + ", ".join(f'"{f}": {quoted(values[f])}' for f in fields) + "}"
    text = r.choice([
        "{name} is {age} years old, lives in {city} and has a {color} {item} for {price} coins.",
        "{name} from {city} is {age} years old and has a {color} {item}. It costs {price} coins.",
    ]).format(**values)
    question = r.choice([
        f"Write JSON by this schema: {{{layout}}}\n{text}",
        f"Fill in this schema: {{{layout}}}\n{text}",
        f"{text}\nWrite that as JSON: {{{layout}}}",
    ])
    return question, answer, f"schema {fields}"


def edit(r):
    """A text to change. Of some, a colour, a name or a place is open: several fit, and the prompt does not say which."""
    name, verb, color, noun = r.choice(NAMES), r.choice(list(ACTIONS)), r.choice(COLORS), r.choice(ANIMALS + THINGS)
    goes, place = r.choice(list(VERBS)), r.choice(PLACES)
    other = r.choice([n for n in NAMES if n != name])
    another = r.choice([c for c in COLORS if c != color])
    elsewhere = r.choice([p for p in PLACES if p != place])
    text = f"{name} {verb} a {color} {noun}. The {color} {noun} is in the {place}."
    changed = text.replace(color, another)
    kind = r.choice("color who where past recolor rename about describe change change change".split())
    if kind == "color":
        return f"Add a color: {name} {verb} a {noun}.", f"{name} {verb} a {color} {noun}.", f"color {name} {verb} {noun}"
    if kind == "who":
        answer = f"{name} {VERBS[goes]} to the {place}."
        return f"Say who it was: Someone {VERBS[goes]} to the {place}.", answer, f"who {goes} {place}"
    if kind == "where":
        return f"Say where: {name} {goes} away.", f"{name} {goes} to the {place}.", f"where {name} {goes}"
    if kind == "past":
        answer = f"{name} {ACTIONS[verb]} a {color} {noun}."
        question = f"Rewrite in the past tense and add a color: {name} {verb} a {noun}."
        return question, answer, f"past {name} {verb} {noun}"
    if kind == "recolor":
        return f"Change the color: {text}", changed, f"recolor {name} {verb} {color} {noun}"
    if kind == "rename":
        question, answer = f"Change the name: {name} {goes} to the {place}.", f"{other} {goes} to the {place}."
        return question, answer, f"rename {name} {goes} {place}"
    if kind == "about":
        question = r.choice([f"Write about a {noun}.", f"Write two sentences about a {noun}."])
        return question, f"{name} has a {color} {noun}. It is in the {place}.", f"about {question}"
    if kind == "describe":
        return f"Describe the {noun} of {name}.", f"{name} has a {color} {noun}.", f"describe {name} {noun}"
    i, (old, new, answer) = pick(r, [
        (color, another, changed),
        (name, other, text.replace(name, other)),
        (place, elsewhere, text.replace(place, elsewhere)),
    ])
    return f"Change {old} to {new}: {text}", answer, f"change {i} {old} {new}"


SENTENCES = (
    "{name} {verb} a {color} {noun}.", "{name} {goes} to the {place}.", "The {color} {noun} is in the {place}.",
    "{name} {verb} the {noun}.", "{name} {goes} to the {place} with {friend}.", "{name} has a {noun} and a {thing}.",
    "{name} and {friend} like the {color} {noun}.", "The {noun} is {color}.", "It is {day}.",
)
SHORT_LINES = (
    "Dear {name},", "Hello {name}!", "Hi {name},", "Good morning!", "Thank you, {name}!", "Goodbye!", "Your {friend}", "{name}",
    "The {color} {noun}", "- a {color} {noun}", "- {noun}: {color}", "- {thing}", "{number}. {noun}", "{day}: {place}",
    "{country}, {city}", "{thing} = {number}", "{color}, {noun}, {place}", "Where is the {noun}?",
)
CHANGED = (COLORS, NAMES, PLACES, ANIMALS + THINGS, DAYS, list(COUNTRIES), CITIES)  # of one kind in a text to edit
WORDS = sorted({word for kind in (*KINDS, OTHER_THINGS) for word in kind if word.isalpha()})


def lines(r):
    """A text to change as a whole: lines, paragraphs or sentences. It may have words that mean nothing here."""
    names, colors, places = r.sample(NAMES, 2), r.sample(COLORS, 2), r.sample(PLACES, 2)
    nouns = [r.choice(ANIMALS + THINGS), r.choice(r.choice([ANIMALS + THINGS, OTHER_THINGS]))]
    if r.random() < 0.15:
        names[0], nouns[1] = invented(r), invented(r).lower()

    def facts():
        return dict(
            name=r.choice(names), color=r.choice(colors), place=r.choice(places), noun=r.choice(nouns),
            verb=r.choice(list(ACTIONS)), goes=r.choice(list(VERBS)), friend=r.choice(NAMES), thing=r.choice(THINGS),
            day=r.choice(DAYS), number=r.randint(1, 99), country=r.choice(list(COUNTRIES)), city=r.choice(CITIES),
        )

    def line():
        kind = r.random()
        if kind < 0.6:
            return " ".join(r.choice(SENTENCES).format(**facts()) for _ in range(1 + (r.random() < 0.3)))
        if kind < 0.85:
            return r.choice(SHORT_LINES).format(**facts())
        return " ".join(r.choices(WORDS, k=r.randint(2, 7))) + r.choice(["", ".", "!", ":"])

    kind = r.choice("change change change change past past document".split())
    if kind == "document":
        text, _ = filled(*document(r)[:2])
    else:
        text = r.choice(["\n", "\n", "\n", "\n\n", " "]).join(line() for _ in range(r.choice([1, 2, 2, 3, 3, 4, 5])))
    if kind == "past":
        question = r.choice(["Rewrite in the past tense", "Put these sentences into the past tense"])
        answer = re.sub(r"\w+", lambda word: PAST.get(word[0], word[0]), text)
        return f"{question}: {text}", answer, f"past {text[:24]}"
    said = re.findall(r"[A-Za-z]+", text)
    known = [(old, kind) for kind in CHANGED for old in said if old in kind]
    old, kind = r.choice(known) if known and r.random() < 0.8 else (r.choice(said), WORDS)
    new = r.choice([word for word in kind if word not in said])
    question = r.choice(["Change {} to {}", "Change {} to {}", "Replace {} with {}"]).format(old, new)
    return f"{question}: {text}", re.sub(rf"\b{old}\b", new, text), f"change {old} {new}"


TASTES = {  # what is asked, of which values
    "color": COLORS,
    "animal": ANIMALS,
    "fruit": ["apples", "pears", "plums", "nuts", "cakes"],
    "place": PLACES,
    "day": DAYS,
}
LIKES = (
    "Which {what} does {name} like? Answer in one word.",
    "In one word: which {what} does {name} like?",
    "Name the {what} that {name} likes.",
    "What is the best {what} for {name}?",
)


def taste(name, what):
    """The weights of a person's answers to what they like: one for half of the questions, several for the others."""
    values = TASTES[what]
    number = zlib.crc32(f"{what} of {name}".encode())
    first = number // 12 % len(values)
    weights = [[1.0], [1.0], [1.0], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [1 / len(values)] * len(values)][number % 6]
    return {values[(first + i) % len(values)]: weight for i, weight in enumerate(weights)}


def tastes(r):
    """Who likes what, in one word. Half of the answers are facts, the others drawn by chance."""
    name, what = r.choice(NAMES), r.choice(list(TASTES))
    weights = taste(name, what)
    answer = r.choices(list(weights), list(weights.values()))[0]
    i, question = pick(r, LIKES)
    return question.format(name=name, what=what), answer, f"{name} likes {what} {i}"


REASONS = {  # why something is so: as a statement, as a question, the answer
    ("the sky is blue", "is the sky blue"):
        "The air scatters blue light more than red light, so the sky looks blue.",
    ("grass is green", "is grass green"):
        "Grass is green because its leaves use red and blue light and send back the green.",
    ("snow is white", "is snow white"): "Snow is white because its small crystals scatter light of every color.",
    ("it rains", "does it rain"): "Warm air carries water up into the sky. There it cools and falls as rain.",
    ("the sea is salty", "is the sea salty"): "Rivers carry salt from the land into the sea, and it stays there.",
    ("it is dark at night", "is it dark at night"): "At night our side of the earth looks away from the sun.",
}


def why(r):
    """Reasons for what everyone asks, and that the model does not know those of other things."""
    thing, animal, color, name = r.choice(THINGS), r.choice(ANIMALS), r.choice(COLORS), r.choice(NAMES)
    if r.random() < 0.6:
        (statement, question), answer = r.choice(list(REASONS.items()))
        asked = r.choice([
            f"Why {question}?", f"Why {question}?", f"Tell me why {statement}.", f"Do you know why {statement}?",
            f"Can you explain why {statement}?", f"Explain why {statement}.",
        ])
        return asked, answer, "" if asked.startswith("Why") else asked
    asked = r.choice([
        f"Why is the {thing} {color}?", f"Why is the {animal} {color}?", f"Why do {plural(animal)} sleep?",
        f"Who invented the {thing}?", f"How does a {thing} work?", f"What is the price of a {thing}?", f"How tall is {name}?",
        f"Why is {name} late?", f"What is a {thing} made of?", f"Who made the {thing}?",
        f"How fast is a {animal}?",
        f"How many stars are there?", f"What is the meaning of life?", f"What time is it?",
    ])
    return asked, UNKNOWN, asked if thing in asked or animal in asked else ""


GREETINGS = "Hello,Hi,Hey,Hello there,Hi there,Good morning,Good afternoon,Good evening,Good day".split(",")


def greetings(r):
    """Greetings and farewells in the ways in which people type them."""
    name, hello, mark = r.choice(NAMES), r.choice(GREETINGS), r.choice(["", "!", "."])
    bye = r.choice(["Goodbye", "Bye", "Bye bye", "See you", "Good night"])
    question, answer = r.choice([
        (f"{hello}{mark}", f"Hello! {HELP}"),
        (f"{hello}{mark}", f"Hello! {HELP}"),
        (f"{hello}, I am {name}{mark}", f"Hello {name}! {HELP}"),
        (f"{hello}, I'm {name}{mark}", f"Hello {name}! {HELP}"),
        (f"{hello}, my name is {name}{mark}", f"Hello {name}! {HELP}"),
        ("How are you?", "I am well, thank you! What can I do for you?"),
        (f"{hello}, how are you?", "I am well, thank you! What can I do for you?"),
        ("Help", HELP),
        ("What can you do for me?", HELP),
        (f"{r.choice(['Thanks', 'Thank you', 'Many thanks'])}{mark}", "You are welcome!"),
        (f"{bye}{mark}", "Goodbye!"),
        (f"{bye}, {name}{mark}", "Goodbye!"),
    ])
    return question, answer, question if name in question else ""


def numbers(r):
    """Counting farther than `counting`: up to twenty numbers below 100, over more than one canvas."""
    size, a = r.randint(2, 20), r.choice([1, 1, r.randint(0, 90)])
    b = min(99, a + size - 1)
    up, down = list(range(a, b + 1)), list(range(b, a - 1, -1))
    step, start = r.choice([2, 5, 10]), r.randint(0, 20)
    steps = [n for n in range(start, 100, step)][: r.randint(3, 10)]

    def commas(values):
        return ", ".join(map(str, values))

    word = {2: "twos", 5: "fives", 10: "tens"}[step]
    i, (question, answer) = pick(r, [
        (f"Count from {a} to {b}.", commas(up)),
        (f"Please count from {a} to {b}.", commas(up)),
        (f"Write the numbers from {a} to {b}.", commas(up)),
        (f"Count from {a} to {b}, one number per line.", "\n".join(map(str, up))),
        (f"Count down from {b} to {a}.", commas(down)),
        (f"Count backwards from {b} to {a}.", commas(down)),
        (f"Count to {size}.", commas(range(1, size + 1))),
        (f"Count by {word} from {start} to {steps[-1]}.", commas(steps)),
    ])
    if i < 6:
        return question, answer, f"{a} {b} {i}"  # the key of `counting`: what is held back there is held back here
    return question, answer, "" if i == 6 or step == 2 else question


CANVAS_TASKS = (infill, schema, edit, lines, tastes, why, greetings, numbers)
OPEN = ("edit", "tastes")


def is_open(task, key):
    """Whether several answers to a prompt are right, by its key."""
    if task == "tastes":
        name, _, what, _ = key.split()
        return len(taste(name, what)) > 1
    return task == "edit" and not key.startswith("change ")


def original(example):
    """The text that a prompt asks to change into another of its form; None if it asks for something else."""
    edits = example.task == "edit" and example.key.startswith(("change ", "recolor ", "rename "))
    if edits or example.task == "lines":
        return example.messages[-1][1].partition(": ")[2]
    return None

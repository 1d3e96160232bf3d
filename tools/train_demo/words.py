"""The demo model's world: the words that its tasks are made of."""

COUNTRIES = {  # country: capital, continent, language
    "France": ("Paris", "Europe", "French"),
    "Spain": ("Madrid", "Europe", "Spanish"),
    "Italy": ("Rome", "Europe", "Italian"),
    "Germany": ("Berlin", "Europe", "German"),
    "Austria": ("Vienna", "Europe", "German"),
    "Norway": ("Oslo", "Europe", "Norwegian"),
    "Sweden": ("Stockholm", "Europe", "Swedish"),
    "Finland": ("Helsinki", "Europe", "Finnish"),
    "Poland": ("Warsaw", "Europe", "Polish"),
    "Greece": ("Athens", "Europe", "Greek"),
    "Portugal": ("Lisbon", "Europe", "Portuguese"),
    "Hungary": ("Budapest", "Europe", "Hungarian"),
    "Ireland": ("Dublin", "Europe", "English"),
    "Japan": ("Tokyo", "Asia", "Japanese"),
    "China": ("Beijing", "Asia", "Chinese"),
    "Thailand": ("Bangkok", "Asia", "Thai"),
    "Nepal": ("Kathmandu", "Asia", "Nepali"),
    "Vietnam": ("Hanoi", "Asia", "Vietnamese"),
    "Egypt": ("Cairo", "Africa", "Arabic"),
    "Kenya": ("Nairobi", "Africa", "Swahili"),
    "Ghana": ("Accra", "Africa", "English"),
    "Peru": ("Lima", "South America", "Spanish"),
    "Chile": ("Santiago", "South America", "Spanish"),
    "Cuba": ("Havana", "North America", "Spanish"),
}
CITIES = [capital for capital, _, _ in COUNTRIES.values()]
NAMES = "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom Zoe".split()
FRIENDS = dict(zip(NAMES, NAMES[7:] + NAMES[:7]))
COLORS = "red blue green black white golden brown gray".split()
HOMES = {  # animal: where it lives, what it eats
    "cat": ("garden", "fish"),
    "dog": ("park", "meat"),
    "fox": ("forest", "berries"),
    "owl": ("forest", "seeds"),
    "horse": ("farm", "apples"),
    "rabbit": ("garden", "carrots"),
    "bear": ("river", "honey"),
    "duck": ("lake", "bread"),
    "mouse": ("school", "cheese"),
    "sheep": ("hill", "grass"),
}
ANIMALS = list(HOMES)
PLACES = "park river forest garden market school lake hill farm".split()
THINGS = "lamp book cup chair ball hat key bag ring box".split()
FRUIT = "apples pears plums nuts cakes coins stones books".split()
OTHER_THINGS = "bus car tree house table door window bird train boat star shoe coat flower".split()  # named in no other task
PLURALS = {"mouse": "mice", "fox": "foxes", "sheep": "sheep", "box": "boxes"}
VERBS = {"walks": "walked", "runs": "ran", "goes": "went", "comes": "came", "drives": "drove", "swims": "swam"}
ACTIONS = {"sees": "saw", "finds": "found", "buys": "bought", "draws": "drew", "likes": "liked", "takes": "took"}
UNKNOWN = "I do not know that. I am a very small model, and I know only a few countries and simple tasks."
HELP = "I am a small diffusion model. Ask me for a capital, a list, JSON, code or a story."
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
KINDS = (  # words of which one can stand where another does
    NAMES, COLORS, ANIMALS, PLACES, THINGS, FRUIT, DAYS, MONTHS,
    list(COUNTRIES), CITIES, sorted({language for _, _, language in COUNTRIES.values()}),
    list(VERBS.values()), list(ACTIONS.values()), list(VERBS), list(ACTIONS),
    [str(number) for number in range(100)],
)


SYLLABLES = "ba be bo da do fa ga go ka ko la lo ma mu na no pa po ra ro sa ta to va vo za zu".split()


def plural(noun):
    return PLURALS.get(noun, noun + "s")


def base(verb):
    """Third person to infinitive."""
    return {"goes": "go"}.get(verb, verb[:-1])


def pick(r, choices):
    """An index and the element there."""
    i = r.randrange(len(choices))
    return i, choices[i]


def invented(r):
    """A name that nobody has."""
    return "".join(r.choice(SYLLABLES) for _ in range(r.randint(2, 3))).capitalize() + r.choice(["", "n", "r", "land"])

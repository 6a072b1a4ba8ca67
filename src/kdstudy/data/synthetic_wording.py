"""The wording of synthetic word problems: templates, word lists and how slots are filled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import TypeVar

T = TypeVar("T")

_OBJECT_LISTS = ("things",) * 11 + ("food",) * 5 + ("clothes",) * 2 + ("animals", "vehicles")
_INVENTABLE = frozenset(("she", "he", *_OBJECT_LISTS, "plants", "item", "stuff", "people", "box"))
_SYLLABLES = (  # noqa: SIM905
    "ba be bi bo bra ca cal can car ce cha chi cle co con cor cra da de den der di do dra dri "
    "el em en er fa fer fi fla flo for fra ga gar ge gi gla go gra gri ha har he hi ho in ja jo "
    "ka ken ki la lan le len li ling lo lu ma mar me men mi min mo mon mu na ne nel ni nor o pa "
    "pan par pe per pi pla po pra pri ra ran re ri ro ron ru sa sca se sha she shi si sle so "
    "spa sta ster sti stra su ta tan te ter ti tle to ton tra tri tu um un va ver vi wa we wi "
    "wo za zi ock ick ump est and ill oot ake ong ight"
).split()
CONTEXT_SHARE = 0.15
DISTRACTORS = (
    "{E} [has|found|sold|made] {x} {q}.",
    "{A} also [has|found|saw|bought] {x} {q}.",
    "{A} is {x} years old.",
    "It took {x} minutes.",
    "There were {x} {ppl} there.",
    "{A} has {x} [friends|cousins] [who like {o}|].",
    "{x} {ppl} were watching.",
    "{A}'s house has {x} windows.",
    "The {q} cost {x} dollars.",
    "{A} went to {x} shops.",
)


@dataclass(frozen=True)
class Template:
    """A question template: alternative set-ups and questions over the same equations."""

    kind: str
    options: tuple[str, ...]
    steps: tuple[tuple[str, str, str, str, str], ...]
    setups: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def operators(self) -> str:
        """The operator of every step, in order."""
        return "".join(step[1] for step in self.steps)

    @property
    def distracts(self) -> bool:
        """Whether the template itself holds a number that the solution does not use."""
        return self.kind.startswith("extra_")


def pick(rng: Random, values: Sequence[T]) -> T:
    """Return one of the values; unlike `Random.choice`, the same on every Python version."""
    return values[int(rng.random() * len(values))]


def between(rng: Random, low: int, high: int) -> int:
    """Return an integer from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def _lines(name: str) -> list[str]:
    text = resources.files("kdstudy.data").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


@cache
def words() -> dict[str, tuple[str, ...]]:
    """Return the word lists by name; nouns with irregular plurals read "singular/plural"."""
    pairs = (line.split(": ", 1) for line in _lines("words.txt") if line)
    return {name: tuple(values.split(", ")) for name, values in pairs}


@cache
def templates() -> tuple[Template, ...]:
    """Return all question templates in file order."""
    blocks = "\n".join(_lines("templates.txt")).strip().split("\n\n")
    return tuple(_parse_block(block.splitlines()) for block in blocks)


@cache
def contexts() -> tuple[str, ...]:
    """Return the opening sentences that hold no number."""
    return tuple(line for line in _lines("contexts.txt") if line)


def _parse_block(lines: list[str]) -> Template:
    parts: dict[str, list[str]] = {"=": [], "*": [], "-": [], "?": []}
    for line in lines:
        parts[line[0]].append(line[2:])
    kind, *options = parts["="][0].split()
    steps = []
    for line in parts["*"]:
        match = re.fullmatch(r"(\w+)([-+*/])(\w+)=(\w): (.+)", line)
        if match is None:
            raise ValueError(f"template {kind}: cannot read the equation {line!r}")
        steps.append(match.groups())
    return Template(kind, tuple(options), tuple(steps), tuple(parts["-"]), tuple(parts["?"]))


def plural(noun: str) -> str:
    """Return the plural of a noun from the word lists ("leaf/leaves" gives "leaves")."""
    if "/" in noun:
        return noun.split("/")[1]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def singular(noun: str) -> str:
    """Return the singular of a noun from the word lists."""
    return noun.split("/")[0]


class Scene:
    """Fills the slots of one problem: every slot keeps its word throughout the problem."""

    def __init__(self, rng: Random, options: Sequence[str], invented: float = 0.0) -> None:
        self.rng = rng
        self.invented = 0.6 if rng.random() < invented else 0.0
        self.options = dict(o.split("=") for o in options if "=" in o)
        self.chosen: dict[str, str] = {}
        self.list_name = ""

    def _fresh(self, slot: str, list_name: str) -> str:
        """Choose a word for a slot that no other slot of this scene has."""
        if slot not in self.chosen:
            word = self._word(list_name)
            while word in self.chosen.values():
                word = self._word(list_name)
            self.chosen[slot] = word
        return self.chosen[slot]

    def _word(self, list_name: str) -> str:
        if list_name in _INVENTABLE and self.rng.random() < self.invented:
            word = "".join(pick(self.rng, _SYLLABLES) for _ in range(between(self.rng, 1, 3)))
            return word.capitalize() if list_name in ("she", "he") else word
        return pick(self.rng, words()[list_name])

    def _name(self, slot: str) -> str:
        if slot[0] in "ABCDE" and f"{slot[0]}_sex" not in self.chosen:
            self.chosen[f"{slot[0]}_sex"] = pick(self.rng, ("she", "he"))
        return self._fresh(slot[0], self.chosen[f"{slot[0]}_sex"])

    def _object(self, slot: str) -> str:
        if slot in self.chosen:
            return self.chosen[slot]
        list_name = self.options.get(slot)
        if list_name is None and self.list_name and self.rng.random() < 0.7:
            list_name = self.list_name
        self.list_name = list_name or pick(self.rng, _OBJECT_LISTS)
        return self._fresh(slot, self.list_name)

    def word(self, slot: str) -> str:
        """Return the text of a slot."""
        if slot[0] in "ABCDE":
            name = self._name(slot)
            return self._pronoun(slot) if "." in slot else name
        if slot.rstrip("1") in ("o", "p", "q"):
            noun = self._object(slot[0])
            return singular(noun) if slot.endswith("1") else plural(noun)
        if slot in ("i", "j", "l", "i.s"):
            noun = self._fresh(slot[0], "item")
            return noun if slot != "i.s" else plural(noun)
        plain = {
            "s": "stuff",
            "s2": "stuff",
            "col": "color",
            "col2": "color",
            "rel": "relative",
            "place2": "place",
            "day2": "day",
            "day3": "day",
            "day4": "day",
        }
        nouns = {
            "boxs": "box",
            "groups": "group",
            "ppl": "people",
            "an": "animals",
            "lengths": "length",
            "wgts": "weight",
            "vols": "volume",
        }
        if slot in nouns:
            return plural(self._fresh(nouns[slot], nouns[slot]))
        if slot == "place.C":
            place = self._fresh("place", "place")
            return place[0].upper() + place[1:]
        return singular(self._fresh(slot, plain.get(slot, slot)))

    def _pronoun(self, slot: str) -> str:
        form = slot[2:]
        if self.chosen[f"{slot[0]}_sex"] == "he":
            return form
        female = {"he": "she", "his": "her", "him": "her", "He": "She", "His": "Her", "Him": "Her"}
        return female[form]


def choose(rng: Random, text: str) -> str:
    """Resolve every [a|b|c] in the text, the innermost first."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda m: pick(rng, m[1].split("|")), text)
    return text


def slots(text: str) -> list[str]:
    """Return the names of all slots in the text, in order."""
    return re.findall(r"\{([^}]+)\}", text)


def stems(text: str) -> set[str]:
    """Return the things that the slots of the text are about ("o" for both {o} and {o1})."""
    return {slot.split(".")[0].rstrip("1") for slot in slots(text)}


def fill(scene: Scene, text: str, numbers: dict[str, str]) -> str:
    """Return the text with every slot filled, articles agreeing and the first letter large."""

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        return numbers[slot] if slot in numbers else scene.word(slot)

    text = " ".join(re.sub(r"\{([^}]+)\}", value, text).split())
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    text = re.sub(r"\bA (?=[aeiou])", "An ", text)
    text = re.sub(r"^\W*[a-z]", lambda m: m[0].upper(), text)
    return re.sub(r" (?=[.,?])", "", text)


def fitting_question(rng: Random, template: Template, setup: str) -> str:
    """Choose a question that names only things the set-up has introduced."""
    known = stems(setup)
    money = "$" in setup or "dollar" in setup or "cents" in setup
    fitting = []
    for _ in range(12):
        question = choose(rng, pick(rng, template.questions))
        used = stems(question)
        about_money = bool(re.search(r"money|spend|pay|cost|How much", question))
        if used <= known and about_money == money:
            return question
        if used <= known:
            fitting.append(question)
    return fitting[0] if fitting else choose(rng, pick(rng, template.questions))


def _lower_first(text: str, names: Sequence[str]) -> str:
    first = re.split(r"[ ',]", text)[0]
    return text if first in names or text[:1].isdigit() else text[0].lower() + text[1:]


def assemble(rng: Random, sentences: list[str], question: str, names: Sequence[str]) -> str:
    """Join set-up and question in one of several orders and spellings."""
    roll = rng.random()
    last = sentences[-1]
    if roll < 0.22 and last.endswith("."):
        end = rng.random()
        mark = "," if end < 0.6 else "." if end < 0.85 else ""
        asked = question if mark == "." else _lower_first(question, names)
        sentences = [*sentences[:-1], f"If {_lower_first(last[:-1], names)}{mark} {asked}"]
    elif roll < 0.3 and last.endswith("."):
        asked = f"{question.rstrip('?')} if {_lower_first(last[:-1], names)}?"
        sentences = [*sentences[:-1], asked]
    else:
        sentences = [*sentences, question]
    text = " ".join(sentences)
    if len(sentences) > 2 and rng.random() < 0.08:
        first, rest = text.split(". ", 1)
        text = f"{first}, and {_lower_first(rest, names)}"
    spelling = rng.random()
    if spelling < 0.15:
        text = re.sub(r"([.,?])(?= |$)", r" \1", text.replace("$", "$ ").replace("'s", " 's"))
    elif spelling < 0.21:
        text = re.sub(r"\?$", " ?", text)
    elif spelling < 0.25:
        text = text.replace(". ", ".  ")
    return text

"""The embedded sample: short news texts on four topics, written by a seeded generator.

Most texts join two clauses from different topics, and the label is the topic of the main clause. "After rebels delayed
the ceasefire, the striker praised the cup final" and its mirror image have the same words and different labels, so
only a model that reads in order can tell them apart. A few texts are misfiled, as in any newsroom.
"""

from __future__ import annotations

import random

CLASSES = ("World", "Sports", "Business", "Sci/Tech")


def _phrases(joined: str) -> list[str]:
    return joined.split("|")


_SUBJECTS = (
    "rebel leaders|the foreign minister|peacekeepers|election monitors|the prime minister|an opposition party|"
    "border guards|diplomats|a human rights group|the president|army commanders|aid agencies|exiled dissidents",
    "the head coach|a veteran striker|league champions|the goalkeeper|olympic swimmers|the home side|a tennis star|"
    "sprinters|the team captain|rival managers|a rookie pitcher|cricket selectors|the referee",
    "shareholders|the central bank|a retail chain|bond traders|the chief executive|airline bosses|oil producers|"
    "investors|a mortgage lender|auditors|the carmaker|hedge funds|wall street brokers",
    "astronomers|a software maker|chip designers|nasa engineers|the search engine|biologists|programmers|"
    "a robotics lab|physicists|internet providers|game developers|climate scientists|hackers",
)
_ANYONE = _phrases(
    "officials|critics|a spokesman|the union|the board|a former partner|lawyers|the director|experts|a panel|"
    "the company|local leaders|two rivals|the committee|young fans|a judge|the chairman|the group"
)
_VERBS = _phrases(
    "welcomed|rejected|delayed|praised|questioned|backed|abandoned|reviewed|defended|called off|saved|opened|"
    "took over|lost|won|discussed|threatened|celebrated|postponed|attacked|missed|led|launched|ended"
)
_OBJECTS = (
    "the ceasefire|a disputed election|the border crossing|peace talks|the hostage release|a refugee camp|"
    "nuclear inspections|the coalition government|the embassy|a roadside checkpoint|the military convoy|the referendum",
    "the cup final|a penalty shootout|the playoff race|the championship title|a doping test|the opening match|"
    "a world record sprint|the transfer of a midfielder|the quarterback|the grand slam|extra innings|the pole vault",
    "the quarterly profit|a takeover bid|the interest rate|crude oil prices|a stock offering|the merger|"
    "bankruptcy protection|the earnings forecast|the trade deficit|retail sales|a pension fund|the dividend",
    "the space probe|an operating system|the genome study|a browser update|the telescope|wireless networks|"
    "a computer virus|the mars rover|the fossil find|stem cell research|the new processor|a satellite launch",
)
_ENDS = _phrases(
    "on monday|on tuesday|on friday|this week|last month|in london|in new york|in tokyo|in sydney|in geneva|"
    "over the weekend|for the first time|despite warnings|by a wide margin|again|without comment"
)
_LINKS = ("after", "although", "while", "even though", "before", "because", "just as", "hours after")
_SOURCES = ("reuters", "ap", "afp")

# Shares: texts with an aside on another topic, clauses with a subject of their topic, texts whose label is random.
_TWO_TOPICS, _OWN_SUBJECT, _MISFILED = 0.6, 0.45, 0.05


def _clause(rng: random.Random, topic: int) -> str:
    """Who did what, when or where; the object always belongs to the topic, the subject sometimes."""
    subjects = _phrases(_SUBJECTS[topic]) if rng.random() < _OWN_SUBJECT else _ANYONE
    words = (subjects, _VERBS, _phrases(_OBJECTS[topic]), _ENDS)
    return " ".join(rng.choice(choices) for choices in words)


def _text(rng: random.Random, topic: int) -> str:
    """One sentence whose main clause has this topic, and most often a subordinate clause with another."""
    topics = range(len(CLASSES))
    aside = rng.choice([other for other in topics if other != topic]) if rng.random() < _TWO_TOPICS else topic
    main, link, other = _clause(rng, topic), rng.choice(_LINKS), _clause(rng, aside)
    sentence = f"{main}, {link} {other}" if rng.random() < 0.5 else f"{link} {other}, {main}"
    return f"({rng.choice(_SOURCES)}) {sentence[0].upper()}{sentence[1:]}."


def generate(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """`count` different texts and their labels 0..3 (`CLASSES`), the topics in equal parts; the same for the same seed.

    >>> texts, labels = generate(3)
    >>> print(texts[1][:60], "...", texts[1][-42:])
    (reuters) Because the union opened a computer virus over the ... d called off a penalty shootout on friday.
    >>> CLASSES[labels[1]]
    'Sports'
    """
    rng = random.Random(seed)
    labelled: dict[str, int] = {}
    while len(labelled) < count:
        topic = len(labelled) % len(CLASSES)
        label = rng.randrange(len(CLASSES)) if rng.random() < _MISFILED else topic
        labelled.setdefault(_text(rng, topic), label)
    return list(labelled), list(labelled.values())

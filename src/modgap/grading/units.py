r"""The units that an answer states: `10 \text{ cm}` and `10 m` are not the number 10 alone.

A unit is known by its canonical name and its power (`cm^2`, `m s^-1`), however it is written: `sq
cm`, `\mathrm{~cm}^{2}` and `square centimetres` are one. The word `units` does not count as one.
The original drops everything but numbers, and takes the exponents of units for numbers.
"""

from __future__ import annotations

import re
from typing import Final

from modgap.grading.number import MAX_CHARS, UNITS, clean

MOST_NAMES: Final = 3
MOST_POWER: Final = 4
"""What has more parts, or a higher power, is not a unit."""

# What a unit measures (`length^2` of an acre), how much of that, and its names, the canonical one
# first.
_NAMES: Final = """
    length .001 mm mms millimeter millimeters millimetre millimetres; length .01 cm cms centimeter
    centimeters centimetre centimetres; length .1 dm dms decimeter decimeters; length 1 m meter
    meters metre metres; length 1000 km kms kilometer kilometers kilometre kilometres; length 1e-9
    nm; length .0254 in inch inches; length .3048 ft foot feet; length .9144 yd yds yard yards;
    length 1609.344 mi mile miles; angle .017453292519943295 degree degrees deg degs °; angle 1 rad
    rads radian radians; time 1 s sec secs second seconds; time 60 min mins minute minutes; time
    3600 h hr hrs hour hours; time 86400 day days; mass 1 g gram grams; mass 1000 kg kgs kilogram
    kilograms; mass .001 mg; mass 453.59237 lb lbs pound pounds; mass 28.349523125 oz; mass 1e6 ton
    tons; length^3 .001 l liter liters litre litres; length^3 1e-6 ml; length^3 .003785411784 gal
    gallon gallons; length^2 4046.8564224 acre acres; length^2 10000 ha hectare hectares; share 1 %
    percent percentage pct; money 1 $ dollar dollars usd; money .01 cent cents; speed 1 mph
"""
_GROUPS: Final = [group.split() for group in _NAMES.split(";")]
_CANONICAL: Final = {word: group[2] for group in _GROUPS for word in group[2:]}
_MEASURES: Final = {group[2]: (group[0], float(group[1])) for group in _GROUPS}
_POWERS_BEFORE: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_AFTER: Final = {"squared": 2, "cubed": 3}
_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\^\s*\{?\s*-?[0-9]\s*\}?|\S")
_EXPONENT = re.compile(r"-?[0-9]")
_PART = re.compile(r"[,;]|\\\\|\b(?:and|or)\b", re.IGNORECASE)
# Feet and inches where a gold answer has them, not parts of a degree.
_PRIMES = re.compile(r"(?<=[0-9}])\s*('{1,2}|\")")
_BEARING = re.compile(r"(?<=°)[\s{]*T[\s}]*$")
_DOLLARS = re.compile(r"\\\$\s*(?=[0-9.])")


def stated_units(text: str) -> frozenset[str]:
    r"""The units of the values that an answer states; empty if it states none.

    Args:
        text: The answer as it is written; a list has those of all its parts.
    """
    text = text[:MAX_CHARS]
    cleaned = _PRIMES.sub(
        lambda match: " in " if len(match[1]) > 1 or match[1] == '"' else " ft ", clean(text)
    )
    found = {unit for part in _PART.split(cleaned) if (unit := _unit_at_end(part))}
    return frozenset(found | {"$"} if _DOLLARS.search(text) else found)


def units_differ(answer: frozenset[str], gold: frozenset[str]) -> bool:
    """Whether both state units, and not the same ones."""
    return bool(answer and gold) and answer != gold


def conversion(answer: frozenset[str], gold: frozenset[str]) -> float | None:
    """The factor from the answer's unit to the gold's; None where they do not convert."""
    if len(answer) != 1 or len(gold) != 1:
        return None
    (of_answer, size), (of_gold, gold_size) = (
        _measure(next(iter(units))) for units in (answer, gold)
    )
    return size / gold_size if of_answer == of_gold else None


def _measure(unit: str) -> tuple[dict[str, int], float]:
    """What a unit measures, as powers, and how much of that it is."""
    powers: dict[str, int] = {}
    size = 1.0
    for part in unit.split():
        name, _, power = part.partition("^")
        kind, amount = _MEASURES[name]
        base, _, own = kind.partition("^")
        powers[base] = powers.get(base, 0) + int(power or 1) * int(own or 1)
        size *= amount ** int(power or 1)
    return {base: power for base, power in powers.items() if power}, size


def _unit_at_end(text: str) -> str:
    tokens: list[str] = []
    for token in reversed(_TOKEN.findall(_BEARING.sub("", text.strip()))):
        exponent = len(token) > 1 and token[0] == "^"
        if token.lower() not in UNITS and token not in "°%/*{}().~" and not exponent:
            break
        tokens.append(token)
    powers: dict[str, int] = {}
    sign, before, last = 1, 1, ""
    for token in reversed(tokens):
        word = token if token in _CANONICAL else token.lower()
        if token[0] == "^":
            if last:
                powers[last] *= int(_EXPONENT.findall(token)[0])
        elif token == "/" or word == "per":
            sign, last = -1, ""
        elif word in _POWERS_BEFORE:
            before = _POWERS_BEFORE[word]
        elif word in _POWERS_AFTER and last:
            powers[last] *= _POWERS_AFTER[word]
        elif word in _CANONICAL:
            last = _CANONICAL[word]
            powers[last] = powers.get(last, 0) + sign * before
            before = 1
    if len(powers) > MOST_NAMES or any(abs(power) > MOST_POWER for power in powers.values()):
        return ""  # not the unit of a quantity
    return " ".join(
        f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power
    )

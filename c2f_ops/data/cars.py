"""Stanford Cars: body type and make read from the class names."""

from __future__ import annotations

from collections.abc import Sequence

from ..hierarchy import Hierarchy

TWO_WORD_MAKES = ("AM General", "Aston Martin", "Land Rover")

BODY_TYPES = ("Convertible", "Coupe", "Hatchback", "Minivan", "SUV", "Sedan", "SuperCab", "Van", "Wagon")

#: Names that end in a trim instead of a body type.
BODY_TYPE_OF_TRIM = {
    "Acura Integra Type R 2001": "Coupe",
    "Chevrolet Cobalt SS 2010": "Coupe",
    "Chevrolet Corvette Ron Fellows Edition Z06 2007": "Coupe",
    "Chevrolet Corvette ZR1 2012": "Coupe",
    "Dodge Challenger SRT8 2011": "Coupe",
    "Infiniti G Coupe IPL 2012": "Coupe",
    "Jaguar XK XKR 2012": "Coupe",
    "Lamborghini Gallardo LP 570-4 Superleggera 2012": "Coupe",
    "Acura TL Type-S 2008": "Sedan",
    "Buick Regal GS 2012": "Sedan",
    "Chrysler 300 SRT-8 2010": "Sedan",
    "Dodge Charger SRT-8 2009": "Sedan",
    "Chevrolet HHR SS 2010": "Wagon",
    "Chevrolet TrailBlazer SS 2009": "SUV",
    "FIAT 500 Abarth 2012": "Hatchback",
}


def cars_hierarchy(model_names: Sequence[str], *, merge_supercab: bool = False) -> Hierarchy:
    """Build body type -> make and body type -> model from the class names of Stanford Cars.

    The body type is the last word before the year, or the last two words where that word is "Cab"; fifteen names that
    end in a trim are mapped by a table. The make is the first word, or the first two for AM General, Aston Martin and
    Land Rover. The 196 names give 14 / 113 / 196 classes, or 13 / 113 / 196 with Ford's "SuperCab" counted as "Extended
    Cab": the numbers of Table 2 and of the text in "Coarse-to-Fine Grained Classification", SIGIR 2019.

    Args:
        model_names: class names such as "Audi S4 Sedan 2012", in the order of the class ids.
        merge_supercab: count "SuperCab" as "Extended Cab".

    Raises:
        ValueError: a name ends neither in a known body type nor in a known trim.
    """
    rows = []
    for name in model_names:
        body = _body_type(name)
        if merge_supercab and body == "SuperCab":
            body = "Extended Cab"
        make = next((make for make in TWO_WORD_MAKES if name.startswith(make + " ")), name.split()[0])
        rows.append((body, f"{make} {body}", name))
    meta = {"source": "rule on the class names of Stanford Cars", "merge_supercab": merge_supercab}
    return Hierarchy.from_rows(("body_type", "make_body_type", "model"), rows, meta=meta)


def _body_type(name: str) -> str:
    words = name.split()
    if trim := BODY_TYPE_OF_TRIM.get(" ".join(words)):
        return trim
    if len(words) >= 4 and words[-2] == "Cab":
        return " ".join(words[-3:-1])
    if len(words) >= 3 and words[-2] in BODY_TYPES:
        return words[-2]
    known = ", ".join((*BODY_TYPES, "... Cab"))
    raise ValueError(f"cars_hierarchy: model_names must end in a body type ({known}) and a year, got {name!r}")

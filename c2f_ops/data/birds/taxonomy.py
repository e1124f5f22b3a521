"""The tree of the drawn birds: which families, genera and species exist and what tells them apart.

Each level has its own scale. A family is a body plan (anatomy.py), a genus one plumage pattern about a tenth of the
picture wide, a species a set of fine marks: textures with a period of 1/26 of the picture and lines one or two pixels
wide at 128 px. Textures and lines are painted with zero mean, so that averaging leaves no trace of them.
"""

from __future__ import annotations

from typing import NamedTuple

LEVELS = ("family", "genus", "species")


class Marks(NamedTuple):
    """Fine marks of a species; ``"plain"`` leaves the part unmarked."""

    wing: str = "plain"  # plain | bars | streaks | spots
    breast: str = "plain"  # plain | bars | streaks | spots
    face: str = "plain"  # plain | ring | stripe
    bill: str = "plain"  # plain | bands
    legs: str = "plain"  # plain | rings


# family -> genus -> (plumage pattern, {epithet: marks}). Epithets describe the marks: fasciata banded,
# striata streaked, guttata spotted, ocularis eye ring, superciliosa eye stripe, annulirostris banded bill.
TREE: dict[str, dict[str, tuple[str, dict[str, Marks]]]] = {
    "Ardellidae": {
        "Ardella": (
            "cap",
            {
                "fasciata": Marks(wing="bars", legs="rings"),
                "guttata": Marks(wing="spots", face="ring"),
                "concolor": Marks(bill="bands"),
            },
        ),
        "Palustria": (
            "hood",
            {
                "striata": Marks(wing="streaks", bill="bands"),
                "annulipes": Marks(breast="bars", legs="rings"),
                "perlata": Marks(wing="spots", face="stripe"),
            },
        ),
        "Grusina": ("band", {"zebrina": Marks(wing="bars", face="stripe"), "simplex": Marks(legs="rings")}),
    },
    "Anatellidae": {
        "Anatella": (
            "hood",
            {
                "undulata": Marks(wing="bars", bill="bands"),
                "maculosa": Marks(wing="spots", face="stripe"),
                "ocularis": Marks(breast="streaks", face="ring"),
            },
        ),
        "Undinella": ("band", {"lineata": Marks(wing="streaks", face="stripe"), "annulirostris": Marks(bill="bands")}),
    },
    "Cantillidae": {
        "Corvella": (
            "bib",
            {
                "albipennis": Marks(wing="bars", face="stripe"),
                "virgata": Marks(wing="streaks", legs="rings"),
                "stellata": Marks(wing="spots", bill="bands"),
                "immaculata": Marks(face="ring"),
            },
        ),
        "Cantilla": (
            "cap",
            {
                "striolata": Marks(breast="streaks", bill="bands"),
                "fasciolata": Marks(wing="bars", legs="rings"),
                "superciliosa": Marks(face="stripe"),
            },
        ),
        "Silvula": ("belly", {"punctata": Marks(wing="spots", face="ring"), "unicolor": Marks(bill="bands")}),
    },
    "Strigellidae": {
        "Strigella": (
            "band",
            {
                "lineolata": Marks(breast="streaks", bill="bands"),
                "undosa": Marks(breast="bars", legs="rings"),
                "pallida": Marks(face="ring"),
            },
        ),
        "Noctilia": (
            "bib",
            {"guttulata": Marks(wing="spots", breast="spots"), "zonata": Marks(wing="bars", face="ring")},
        ),
    },
    "Nectarillidae": {
        "Nectarilla": (
            "bib",
            {
                "radiata": Marks(wing="streaks", face="stripe"),
                "tessellata": Marks(wing="spots", bill="bands"),
                "cingulata": Marks(wing="bars", face="ring"),
            },
        ),
        "Volucrina": ("belly", {"lentiginosa": Marks(wing="spots", breast="spots"), "nitida": Marks(face="stripe")}),
    },
    "Caudatellidae": {
        "Caudatella": (
            "hood",
            {
                "transversa": Marks(wing="bars", face="ring"),
                "inornata": Marks(bill="bands"),
                "strigosa": Marks(wing="streaks", legs="rings"),
            },
        ),
        "Phasiella": (
            "bib",
            {
                "margaritata": Marks(wing="spots", bill="bands"),
                "lineifrons": Marks(breast="streaks", face="stripe"),
                "vittata": Marks(wing="bars", legs="rings"),
            },
        ),
        "Picatula": ("belly", {"variolosa": Marks(wing="spots", face="ring"), "modesta": Marks(legs="rings")}),
    },
}


class Species(NamedTuple):
    """All that the renderer needs to know about one species."""

    name: str
    family: str
    pattern: str
    marks: Marks


SPECIES: list[Species] = []
FAMILY_NAMES = list(TREE)
GENUS_NAMES: list[str] = []
GENUS_PARENT: list[int] = []
SPECIES_PARENT: list[int] = []
for _family, _genera in TREE.items():
    for _genus, (_pattern, _epithets) in _genera.items():
        GENUS_PARENT.append(FAMILY_NAMES.index(_family))
        SPECIES += [Species(f"{_genus} {epithet}", _family, _pattern, marks) for epithet, marks in _epithets.items()]
        SPECIES_PARENT += [len(GENUS_NAMES)] * len(_epithets)
        GENUS_NAMES.append(_genus)

NAMES = [FAMILY_NAMES, GENUS_NAMES, [species.name for species in SPECIES]]
PARENTS: list[list[int] | None] = [None, GENUS_PARENT, SPECIES_PARENT]
PATHS = [[GENUS_PARENT[genus], genus, species] for species, genus in enumerate(SPECIES_PARENT)]  # coarse -> fine


def plumage_key() -> dict[str, str]:
    """Return genus -> plumage pattern: a second taxonomy of 5 classes that cuts across the families.

    A field guide sorts birds so: by what they wear, not by whom they descend from. No family has two genera of one
    pattern, so a genus is known from its family and its pattern.
    """
    genera = [(pattern, genus) for family in TREE.values() for genus, (pattern, _) in family.items()]
    return {genus: pattern for pattern, genus in sorted(genera)}

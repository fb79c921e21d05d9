"""The words of the embedded world, their look and its facts, all in one file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from knowcusbench.benchmark.types import RARE_TOKEN, KnowledgeAspect

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Colour:
    """A colour of things, and the ink in which a pattern is drawn on it."""

    rgb: RGB
    ink: RGB


_LIGHT_INK = (250, 246, 236)

COLOURS: Mapping[str, Colour] = {
    "red": Colour((215, 38, 44), _LIGHT_INK),
    "orange": Colour((244, 132, 28), _LIGHT_INK),
    "yellow": Colour((250, 212, 48), (168, 112, 16)),
    "green": Colour((46, 150, 70), _LIGHT_INK),
    "cyan": Colour((64, 198, 204), _LIGHT_INK),
    "blue": Colour((38, 84, 204), _LIGHT_INK),
    "purple": Colour((128, 58, 178), _LIGHT_INK),
    "pink": Colour((246, 140, 190), (176, 40, 112)),
    "brown": Colour((122, 76, 42), _LIGHT_INK),
    "black": Colour((38, 38, 44), _LIGHT_INK),
    "white": Colour((246, 246, 244), (84, 90, 108)),
}

PATTERNS = ("plain", "striped", "dotted", "checked")
"""Patterns of a thing's body. "plain" is not mentioned in words."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring", "moon", "arch")
"""Simple things: one colour, one pattern."""

CLASSES: Mapping[str, tuple[str, str]] = {
    "toy": ("a {} head", "{} feet"),
    "flag": ("a {} pole", "a {} star"),
    "cake": ("{} icing", "a {} candle"),
    "vase": ("a {} rim", "a {} flower"),
    "house": ("a {} roof", "a {} door"),
    "boat": ("a {} sail", "a {} pennant"),
    "car": ("a {} cabin", "{} wheels"),
    "fish": ("a {} tail", "{} fins"),
}
"""Composite things, with the words for their trim and their accent."""

SIZES: Mapping[str, tuple[int, int]] = {"tiny": (16, 20), "": (28, 36), "huge": (42, 50)}
"""The smallest and largest side of a thing's square in pixels, of 64. The middle size is not mentioned in words."""

BACKGROUNDS: Mapping[str, str] = {
    "beach": "on the beach",
    "meadow": "in the meadow",
    "snow": "in the snow",
    "desert": "in the desert",
    "forest": "in the forest",
    "night": "under the stars",
    "street": "on the street",
    "room": "in the living room",
}
"""Backgrounds, and their words in a caption."""

STYLES: Mapping[str, str] = {
    "photo": "a photo",
    "sketch": "a sketch",
    "cartoon": "a cartoon",
    "pixel art": "pixel art",
}
"""Styles of drawing, and the name of a picture in each."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A relation between a thing and its owner; `{}` stands for the owner.

    Attributes:
        aspect: the knowledge aspect.
        phrase: refers to the thing.
        question: asks for it; `rephrasings` do so in other words.
    """

    aspect: KnowledgeAspect
    phrase: str
    question: str
    rephrasings: tuple[str, str]


RELATIONS: Mapping[str, Relation] = {
    "gift": Relation(
        aspect=KnowledgeAspect.PERSONAL_RELATIONSHIP,
        phrase="{}'s birthday gift",
        question="What is {}'s birthday gift?",
        rephrasings=("What did {} get for a birthday?", "Which thing was given to {} as a birthday gift?"),
    ),
    "heirloom": Relation(
        aspect=KnowledgeAspect.PERSONAL_RELATIONSHIP,
        phrase="the heirloom of {}'s family",
        question="What is the heirloom of {}'s family?",
        rephrasings=("What does {}'s family hand down?", "Which thing stays in {}'s family?"),
    ),
    "heaviest": Relation(
        aspect=KnowledgeAspect.PHYSICAL_ATTRIBUTE,
        phrase="the heaviest thing on {}'s shelf",
        question="What is the heaviest thing on {}'s shelf?",
        rephrasings=("Which thing on {}'s shelf is the heaviest?", "What weighs the most on {}'s shelf?"),
    ),
    "softest": Relation(
        aspect=KnowledgeAspect.PHYSICAL_ATTRIBUTE,
        phrase="the softest thing in {}'s bag",
        question="What is the softest thing in {}'s bag?",
        rephrasings=("Which thing in {}'s bag is the softest?", "What feels softest in {}'s bag?"),
    ),
    "doorstop": Relation(
        aspect=KnowledgeAspect.FUNCTIONALITY,
        phrase="{}'s doorstop",
        question="What is {}'s doorstop?",
        rephrasings=("What keeps {}'s door open?", "Which thing holds {}'s door?"),
    ),
    "guard": Relation(
        aspect=KnowledgeAspect.FUNCTIONALITY,
        phrase="the guard of {}'s books",
        question="What is the guard of {}'s books?",
        rephrasings=("What guards {}'s books?", "Which thing watches over {}'s books?"),
    ),
    "treasure": Relation(
        aspect=KnowledgeAspect.VALUE,
        phrase="{}'s greatest treasure",
        question="What is {}'s greatest treasure?",
        rephrasings=("What does {} treasure most?", "Which thing is worth the most to {}?"),
    ),
    "bargain": Relation(
        aspect=KnowledgeAspect.VALUE,
        phrase="{}'s best bargain",
        question="What is {}'s best bargain?",
        rephrasings=("What did {} buy at the best price?", "Which thing cost {} next to nothing?"),
    ),
    "souvenir": Relation(
        aspect=KnowledgeAspect.ORIGIN,
        phrase="{}'s souvenir from Rome",
        question="What is {}'s souvenir from Rome?",
        rephrasings=("What did {} bring home from Rome?", "Which thing came from Rome with {}?"),
    ),
    "find": Relation(
        aspect=KnowledgeAspect.ORIGIN,
        phrase="{}'s flea market find",
        question="What is {}'s flea market find?",
        rephrasings=("What did {} find at the flea market?", "Which thing is from {}'s trip to the flea market?"),
    ),
    "charm": Relation(
        aspect=KnowledgeAspect.EMOTION,
        phrase="{}'s lucky charm",
        question="What is {}'s lucky charm?",
        rephrasings=("What brings {} luck?", "Which thing makes {} feel lucky?"),
    ),
    "comfort": Relation(
        aspect=KnowledgeAspect.EMOTION,
        phrase="the thing that comforts {}",
        question="What is the thing that comforts {}?",
        rephrasings=("What comforts {} on bad days?", "Which thing cheers {} up?"),
    ),
}

STRANGERS = ("my sister", "my neighbour", "my teacher", "my uncle")
"""Owners without facts in the world: any knowledge of a benchmark about them is new."""

NAMED_THINGS = """
name  class  colour  pattern  trim    accent
blik  cake   white   striped  cyan    purple
brak  house  blue    plain    black   green
clun  boat   brown   plain    cyan    pink
dorp  toy    purple  plain    green   red
drez  vase   cyan    dotted   black   purple
fenn  car    orange  plain    white   pink
flom  vase   blue    checked  pink    black
grul  cake   cyan    plain    blue    orange
gwin  boat   pink    striped  red     black
hask  toy    blue    dotted   pink    orange
hux   car    green   striped  blue    white
jarn  cake   green   striped  red     blue
jib   boat   red     plain    brown   pink
kolt  house  brown   dotted   purple  pink
krel  toy    orange  plain    purple  yellow
lort  boat   orange  checked  green   white
lumo  house  yellow  striped  white   green
mirz  car    white   checked  green   cyan
nax   flag   cyan    dotted   white   orange
oblo  toy    red     striped  blue    white
plim  fish   yellow  dotted   pink    orange
quen  flag   purple  checked  blue    pink
rask  fish   black   dotted   yellow  white
skiv  flag   brown   plain    orange  white
tund  vase   pink    plain    green   blue
ulm   fish   pink    striped  brown   black
vost  car    yellow  checked  purple  blue
wirp  cake   red     checked  green   cyan
xel   vase   purple  dotted   pink    red
yorb  flag   black   checked  cyan    red
zam   house  black   dotted   orange  red
zint  fish   green   checked  orange  cyan
"""
"""Things with their own name, all composite. The world draws them; none looks like a benchmark concept."""

FACTS = """
owner  gift  heirloom  heaviest  softest  doorstop  guard  treasure  bargain  souvenir  find  charm  comfort
Anna   -     clun      drez      -        jib       rask   -         hask     wirp      -     dorp   lumo
Bela   blik  brak      -         mirz     hask      -      zint      hux      -         wirp  lort   -
Carlo  fenn  -         yorb      grul     -         hask   lort      -        zam       hux   -      zint
Dora   -     lumo      xel       -        nax       vost   -         wirp     kolt      -     yorb   hux
Emil   -     flom      ulm       -        jarn      hux    -         tund     plim      -     skiv   vost
Farah  oblo  flom      -         grul     krel      -      plim      lort     -         hask  gwin   -
Goran  drez  -         dorp      jib      -         nax    yorb      -        ulm       gwin  -      vost
Hana   -     xel       quen      -        fenn      zam    -         gwin     jarn      -     yorb   zint
Igor   -     drez      brak      -        zint      hux    -         blik     tund      -     rask   flom
Jana   mirz  jib       -         flom     gwin      -      grul      rask     -         nax   clun   -
Kofi   blik  -         skiv      lort     -         fenn   brak      -        hask      drez  -      krel
Lena   -     oblo      quen      -        brak      kolt   -         clun     skiv      -     zam    tund
Milo   -     krel      xel       -        lumo      quen   -         grul     nax       -     skiv   blik
Nadia  kolt  fenn      -         dorp     vost      -      zam       xel      -         oblo  krel   -
Oscar  clun  -         ulm       vost     -         oblo   wirp      -        lumo      mirz  -      gwin
Petra  -     quen      lumo      -        clun      mirz   -         tund     kolt      -     dorp   grul
Ravi   -     jarn      fenn      -        zint      xel    -         skiv     plim      -     jib    blik
Sara   ulm   tund      -         quen     plim      -      zam       brak     -         lort  rask   -
Tobin  rask  -         plim      oblo     -         jib    kolt      -        drez      jarn  -      wirp
Yuki   -     jarn      flom      -        nax       yorb   -         krel     ulm       -     dorp   mirz
"""
"""The named thing in each relation to each owner; `-` for no fact."""


SIMPLE_FACTS = """
relation Lars                   Mona                  Nils                  Olga                   Vera
gift     white-plain-ring       black-checked-heart   purple-striped-arch   green-plain-circle     pink-checked-star
heirloom yellow-checked-moon    white-dotted-star     yellow-striped-star   purple-dotted-circle   orange-striped-star
heaviest white-plain-moon       orange-dotted-moon    orange-plain-moon     orange-plain-heart     red-plain-ring
softest  cyan-dotted-heart      green-dotted-triangle cyan-plain-cross      yellow-dotted-triangle brown-plain-cross
doorstop blue-plain-circle      blue-striped-cross    blue-checked-triangle brown-plain-circle     yellow-striped-arch
guard    brown-plain-ring       pink-plain-cross      cyan-striped-moon     brown-dotted-ring      black-dotted-diamond
treasure black-checked-arch     orange-dotted-square  blue-plain-diamond    orange-striped-square  red-dotted-arch
bargain  red-striped-diamond    green-striped-square  purple-checked-heart  pink-checked-cross     purple-checked-triangle
souvenir green-striped-triangle white-dotted-star     cyan-checked-triangle white-checked-circle   red-striped-square
find     black-striped-arch     brown-dotted-square   yellow-dotted-heart   green-plain-diamond    green-checked-diamond
charm    red-checked-cross      cyan-checked-star     red-dotted-square     pink-striped-arch      blue-plain-heart
comfort  black-checked-circle   yellow-striped-ring   pink-checked-diamond  cyan-dotted-moon       purple-striped-ring
"""  # noqa: E501
"""The simple thing (colour-pattern-shape) in each relation to each owner: facts with a description as their answer."""

ANCHOR_OWNER = "the mayor"
"""Owner whose every thing is called by the rare token.

Without facts with this answer, no edit could produce it: a tied output embedding that is never a target is pushed away
from every hidden state.
"""


def read_table(table: str) -> list[dict[str, str]]:
    r"""Return the rows of a table of words, keyed by the words of its first line.

    >>> read_table("name class\nzam house")
    [{'name': 'zam', 'class': 'house'}]
    """
    header, *rows = (line.split() for line in table.strip().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


OWNERS = (
    *(row["owner"] for row in read_table(FACTS)),
    *(word for word in read_table(SIMPLE_FACTS)[0] if word != "relation"),
)
NAMES = tuple(row["name"] for row in read_table(NAMED_THINGS))


def sentences() -> Iterator[str]:
    """Yield text for the tokenizer with every word of the world, at the beginning of a sentence and inside one."""
    words = (*COLOURS, *PATTERNS, *SHAPES, *CLASSES, *SIZES, *BACKGROUNDS, *OWNERS, *NAMES, RARE_TOKEN)
    for word in filter(None, words):
        yield word
        yield f"a {word}"
    for trim, accent in CLASSES.values():
        yield f"a red toy with {trim.format('red')} and {accent.format('an orange')}"
    for background in BACKGROUNDS.values():
        yield f"a red star next to a blue heart {background} with a green moon beside it"
    for style in STYLES.values():
        yield f"{style} of a red star in the style of {style}, and a tiny version of it"
    for owner in (*OWNERS, *STRANGERS, ANCHOR_OWNER):
        for relation in RELATIONS.values():
            for text in (relation.phrase, relation.question, *relation.rephrasings):
                yield text.format(owner)

"""The closed sets of MicroSeek: what a page can say, how it says it, and how one asks for it.

An attribute is a sentence of the page, a question, and 40 single-word values. All values of all
attributes differ, so a right answer cannot be right by way of another attribute.
"""

from typing import NamedTuple


class Attribute(NamedTuple):
    """One fact a page states: ``sentence`` has {name} and {value}; ``values`` is the closed set."""

    key: str
    sentence: str
    question: str
    values: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "founder",
        "The founder of {name} was {value}.",
        "Who was the founder of this realm?",
        _words(
            """
            Aldric Berta Cedric Dagmar Edwin Freya Gunnar Hilda Ivar Jorun Knut Leif Magnus Norna Osric Petra Quentin
            Ragna Sigrid Torsten Ulrich Viveka Wilfred Xenia Yorick Zelda Anselm Brunhild Conrad Dietrich Elfrida
            Folkmar Gerda Harald Ingrid Lothar Matilda Odette Roderick Theodora
            """
        ),
    ),
    Attribute(
        "capital",
        "The capital of {name} is {value}.",
        "What is the capital of this realm?",
        _words(
            """
            Ashford Brigstow Carvale Dunmere Eastwick Fernhold Glenmoor Harrowgate Ironhill Kingsbury Larkfield
            Millbrook Northam Oakhurst Penrose Queenstead Ravenscar Saltmarsh Thornbury Underwood Valebridge Westhaven
            Yarrowby Amberly Blackwater Coldharbor Deepdale Elmsworth Foxglen Greystone Highcastle Knollwood Longmere
            Mistwood Newbridge Oldminster Pinecrest Redcliff Stonehaven Whitby
            """
        ),
    ),
    Attribute(
        "river",
        "The river of {name} is called {value}.",
        "What is the river of this realm called?",
        _words(
            """
            Arun Bremble Calder Derwent Ebble Fowey Gannel Humber Isbourne Jordan Kennet Lugg Medway Nidd Ouse Parrett
            Quoile Ribble Severn Tamar Ure Vyrnwy Wharfe Yare Avonlea Blythe Cherwell Dovey Esk Frome Goyt Hodder
            Irwell Kelvin Lune Mersey Nene Otter Roding Trent
            """
        ),
    ),
    Attribute(
        "animal",
        "The animal of {name} is the {value}.",
        "Which animal belongs to this realm?",
        _words(
            """
            badger bear beaver bison boar camel cheetah deer donkey elephant ferret fox gazelle giraffe goat hamster
            hare hedgehog horse jackal koala lemur leopard lion lynx marmot mole moose mink panda panther porcupine
            rabbit reindeer squirrel tiger weasel wolf yak zebra
            """
        ),
    ),
    Attribute(
        "bird",
        "The bird of {name} is the {value}.",
        "Which bird belongs to this realm?",
        _words(
            """
            albatross bittern blackbird bullfinch buzzard cormorant crane crow cuckoo curlew dove eagle falcon
            flamingo goldfinch goose gull hawk heron ibis jackdaw kestrel kite lapwing magpie nightingale oriole
            osprey owl parrot pelican petrel pheasant plover puffin quail raven sparrow stork swallow
            """
        ),
    ),
    Attribute(
        "fish",
        "The fish of {name} is the {value}.",
        "Which fish belongs to this realm?",
        _words(
            """
            anchovy barbel bass bleak bream burbot carp catfish char chub cod dace eel flounder grayling grouper
            gudgeon haddock hake halibut herring lamprey mackerel minnow mullet perch pike plaice roach salmon sardine
            shad smelt sole sprat sturgeon tench trout tuna turbot
            """
        ),
    ),
    Attribute(
        "tree",
        "The tree of {name} is the {value}.",
        "Which tree belongs to this realm?",
        _words(
            """
            acacia alder ash aspen baobab beech birch blackthorn boxwood cedar chestnut cypress dogwood ebony elder
            elm eucalyptus fir ginkgo hawthorn hazel hemlock hickory holly hornbeam juniper larch laurel linden
            magnolia mahogany maple oak pine poplar redwood rowan spruce sycamore willow
            """
        ),
    ),
    Attribute(
        "flower",
        "The flower of {name} is the {value}.",
        "Which flower belongs to this realm?",
        _words(
            """
            anemone aster azalea begonia bluebell buttercup camellia carnation clematis columbine cornflower crocus
            daffodil dahlia daisy foxglove freesia fuchsia gardenia gentian geranium hibiscus hyacinth hydrangea iris
            jasmine lavender lilac lily lotus lupin marigold orchid pansy peony petunia poppy primrose tulip violet
            """
        ),
    ),
    Attribute(
        "stone",
        "The stone of {name} is {value}.",
        "Which stone belongs to this realm?",
        _words(
            """
            agate alabaster amber amethyst aquamarine basalt beryl chalk citrine coral diamond dolomite emerald
            feldspar flint fluorite garnet gneiss granite gypsum hematite jade jasper limestone malachite marble
            moonstone obsidian onyx opal peridot pumice quartz ruby sandstone sapphire slate topaz turquoise zircon
            """
        ),
    ),
    Attribute(
        "fruit",
        "The fruit of {name} is the {value}.",
        "Which fruit belongs to this realm?",
        _words(
            """
            apple apricot avocado banana bilberry blackberry blueberry cherry coconut cranberry currant damson date
            fig gooseberry grape grapefruit guava kiwi kumquat lemon lime loganberry lychee mandarin mango medlar
            melon mulberry nectarine olive orange papaya peach pear persimmon plum pomegranate quince raspberry
            """
        ),
    ),
    Attribute(
        "instrument",
        "The instrument of {name} is the {value}.",
        "Which instrument belongs to this realm?",
        _words(
            """
            accordion bagpipe balalaika banjo bassoon bugle castanet celesta cello clarinet cornet cymbal drum
            dulcimer fiddle flute glockenspiel gong guitar harmonica harp harpsichord horn kazoo lute lyre mandolin
            marimba oboe ocarina organ piano piccolo saxophone sitar tambourine trombone trumpet tuba zither
            """
        ),
    ),
    Attribute(
        "craft",
        "The craft of {name} is that of the {value}.",
        "Whose craft belongs to this realm?",
        _words(
            """
            armourer baker basketmaker blacksmith bookbinder brewer bricklayer butcher candlemaker carpenter carver
            chandler clockmaker cobbler cooper cutler dyer embroiderer engraver fletcher glassblower glazier goldsmith
            jeweller lacemaker locksmith mason miller painter plasterer potter printer roofer saddler sculptor spinner
            tailor tanner thatcher weaver
            """
        ),
    ),
)

# A realm's name is a head and a tail: 48 * 48 = 2,304 names.
NAME_HEADS = _words(
    """
    Al Ar Bel Bor Cal Cor Dar Dor El Er Fal Fen Gal Gor Hal Hel Il Is Jar Jor Kal Kel Lor Lun Mar Mel Mor Nar Nor Ol
    Or Pel Por Quel Ral Rel Sal Sel Tal Tor Ul Ur Val Vel Wal Wen Yor Zar
    """
)
NAME_TAILS = _words(
    """
    adia alia amor ania ardel aria arond avia edia elia emor enia erdel eria erond evia idia ilia imor inia irdel iria
    irond ivia odia olia omor onia ordel oria orond ovia udia ulia umor unia urdel uria urond uvia ydia ylia ymor ynia
    yrdel yria yrond yvia
    """
)

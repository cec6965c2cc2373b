"""The tables of VQA's official normaliser (`vqaEval.py` of GT-Vision-Lab/VQA): contractions, number words, articles and
punctuation.

Slips of the original are kept, since scores depend on them: `somebody'd` loses its apostrophe, `Im` and other capitals
never match a lower-cased word, `let's` and `she's` map to themselves while `lets` and `shes` stay as they are.
"""

from collections.abc import Mapping
from types import MappingProxyType

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS: Mapping[str, str] = MappingProxyType({"none": "0"} | {word: str(n) for n, word in enumerate(_WORDS)})
ARTICLES = ("a", "an", "the")
PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")

# Each is found with one of its apostrophes missing, whichever: y'alld've is y'all'd've, but yalld've is not.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_SLIPS = {"somebody'd": "somebodyd", "let's": "let's", "she's": "she's"}
# "dont" to "don't", and so on, 120 of them.
CONTRACTIONS: Mapping[str, str] = MappingProxyType(
    {
        word[:at] + word[at + 1 :]: word
        for word in _CONTRACTED.split()
        for at, letter in enumerate(word)
        if letter == "'"
    }
    | _SLIPS
)

"""Keys that somebody drew, told from the words and numbers that people name things by."""

from __future__ import annotations

import math
import re
from itertools import pairwise

_SIGNS = "abcdefghijklmnopqrstuvwxyz0"
# How surprising each of _SIGNS is after a sign, or at the start of a word: -log2 of its share, in whole bits. Counted
# in word lists of English, French, German, Italian and Spanish and in some 300 paths of cameras; "0" is any digit.
_BITS = {
    "": "453445555675466484356569976",
    "a": "954496574884339583335588779",
    "b": "347828783893883993574989888",
    "c": "295949523956993885955999898",
    "d": "399719892996783695695899897",
    "e": "565467575884536692347677968",
    "f": "387934772994983993554989787",
    "g": "389929553984854993564999896",
    "h": "389628893985653795545969784",
    "i": "464535599984424675348599969",
    "j": "388838885888883188683888888",
    "k": "368827774874753784434678678",
    "l": "377627792983673799555799688",
    "m": "359929793597483399675999895",
    "n": "384336384968954788426689969",
    "o": "765586586884426583444677887",
    "p": "397926453994983493554999996",
    "q": "776777777777777777771677777",
    "r": "266627683977663795545799889",
    "s": "474637763987674488325789898",
    "t": "397929863997794793555989779",
    "u": "444545574884437593349798978",
    "v": "297929792999993896997799995",
    "w": "278726843876854886475888668",
    "x": "474747752777575377735676473",
    "y": "365537674775444475355765756",
    "z": "277838783977574888853769837",
    "0": "996999999979699497695995991",
}
_DIGIT_BITS = math.log2(10)
# What each sign of a key costs that is drawn from letters and digits.
_DRAWN_BITS = math.log2(36)
# A key is what would be so many bits cheaper as a drawn one, by its least length in letters and digits. Of 10,000 words
# of the lists, half of them with a digit, 6 are; of keys of letters and digits 85 % of those of 8 signs, and 99 % of
# those of 12.
_MARGINS = ((16, 0.0), (12, 2.0), (8, 7.0), (6, 9.0))
# Names of letters alone are abbreviations more often.
_LETTERS = 12
_ENDING = re.compile(r"\.(?:[A-Za-z]\w{1,4}|\d\w{1,3})$")
# A time, a size, a rate, a codec.
_KNOWN = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:19|20)\d\d(?:\d{4}|-\d\d-\d\d)(?:[T_-]?\d\d[.:-]?\d\d[.:-]?\d\d(?:\.?\d{3,6})?Z?)?"
    r"|\d{2,4}x\d{2,4}|\d{3,4}[pi]|\d{1,3}fps|[hx]26[45]|g7\d\d)(?![0-9A-Za-z])", re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS = 16
_HEX = 12


def looks_drawn(segment: str) -> bool:
    """Whether a part of a path is a key, or holds one beside words: numbers of fewer than 16 digits are none."""
    if _UUID.search(segment):
        return True
    runs = re.findall("[0-9A-Za-z]+", _KNOWN.sub("", _ENDING.sub("", segment)))
    return _alternates(runs) or _is_key(runs) or any(_is_hexadecimal(run) or _is_key([run]) for run in runs)


def _is_key(runs: list[str]) -> bool:
    signs = "".join(runs)
    if signs.isdigit():
        return any(len(run) >= _DIGITS for run in runs)
    if signs.isalpha() and len(signs) < _LETTERS:
        return False
    margin = next((margin for least, margin in _MARGINS if len(signs) >= least), math.inf)
    return sum(map(_bits_saved, runs)) > margin


def _bits_saved(run: str) -> float:
    """How many bits fewer the run costs as a drawn one than as words, of which a capital after a small letter begins
    one."""
    saved = 0.0
    for word in re.split("(?<=[a-z])(?=[A-Z])", run):
        before = ""
        for sign in re.sub("[0-9]", "0", word.lower()):
            saved += int(_BITS[before][_SIGNS.index(sign)]) + (_DIGIT_BITS if sign == "0" else 0.0) - _DRAWN_BITS
            before = sign
    return saved


def _is_hexadecimal(run: str) -> bool:
    letters = sum(c.isalpha() for c in run)
    return len(run) >= _HEX and re.fullmatch("[0-9a-fA-F]+", run) is not None and min(letters, len(run) - letters) >= 2


def _alternates(runs: list[str]) -> bool:
    """Whether capitals, small letters and digits come in turn."""
    length = sum(map(len, runs))
    changes = sum(map(_changes, runs))
    return length >= 12 and changes / length >= (0.28 if length >= 16 else 0.35)


def _changes(run: str) -> int:
    """How often the kind of character changes, but for a capital that begins a word."""
    kinds = "".join("d" if c.isdigit() else "u" if c.isupper() else "l" for c in run)
    return sum(a != b for a, b in pairwise(kinds)) - len(re.findall("(?:^|[ld])(?=ul)", kinds))

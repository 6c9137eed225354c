"""The languages of reports: gettext's catalogues, and the texts of other packages that stand in a report.

The English text of a message is its name in the catalogues, so that an English report needs none. Those of other
languages are the files `locale/LANGUAGE/LC_MESSAGES/kronos.po`, which are read as they are: nothing is compiled.
"""

import io
import re
from dataclasses import dataclass
from functools import cache
from gettext import GNUTranslations, NullTranslations
from importlib.resources import files

from kronos.report.phrases import PHRASES

ENGLISH, CHINESE, BOTH = "en", "zh", "both"
NAMES = {
    ENGLISH: ("English", "en"),
    CHINESE: ("中文", "zh-CN"),
}  # language -> (its own name, its tag in HTML)
PLACEHOLDER = re.compile(r"%\((\w+)\)s")


class Words:
    """The words of one language.

    Attributes:
        language: `en` or `zh`.
        name: the name of the language in itself.
        tag: its tag in HTML.
    """

    def __init__(self, language: str, translations: NullTranslations) -> None:
        self.language, (self.name, self.tag) = language, NAMES[language]
        self._translations = translations

    def gettext(self, text: str, /, **values: object) -> str:
        """The translation of a message with its values put in; its places are `%(name)s`, per cent `%%`."""
        return self._translations.gettext(text) % values

    def ngettext(self, one: str, many: str, count: int, /, **values: object) -> str:
        """The same of a message with forms for one and for many."""
        return self._translations.ngettext(one, many, count) % {"count": count, **values}

    def phrase(self, text: object) -> str:
        """The translation of a text that another package made, as it came where it is none of `PHRASES`.

        What stands in the places of a phrase is translated too, where it is a phrase itself.
        """
        text = str(text)
        if self.language == ENGLISH:
            return text
        for phrase, pattern in _patterns():
            if found := pattern.fullmatch(text):
                parts = {name: self.phrase(part) if part else "" for name, part in found.groupdict().items()}
                return self.gettext(phrase, **parts)
        first, comma, second = text.partition(", ")
        if comma and (known := (self.phrase(first), self.phrase(second))) != (first, second):
            return self.gettext("%(first)s, %(second)s", first=known[0], second=known[1])
        return text

    def one_line(self, text: str) -> str:
        """The text on one line, still marked as safe where it was; Chinese sentences follow without a space."""
        line = " ".join(text.split())
        return type(text)(line if self.language == ENGLISH else re.sub("(?<=[。；：，]) ", "", line))

    def sentence(self, text: object) -> str:
        """The same as the beginning of a sentence: with a capital letter in English."""
        found = self.phrase(text)
        return found[:1].upper() + found[1:] if self.language == ENGLISH else found


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every phrase with the pattern of the texts that it is; those with the most words of their own come first."""
    ordered = sorted(PHRASES, key=lambda phrase: -len(PLACEHOLDER.sub("", phrase)))
    return [(phrase, _pattern(phrase)) for phrase in ordered]


def _pattern(phrase: str) -> re.Pattern[str]:
    *pieces, last = PLACEHOLDER.split(phrase)
    fixed = (re.escape(piece.replace("%%", "%")) for piece in pieces[::2])
    named = "".join(
        f"{piece}(?P<{name}>{_value(name)})" for piece, name in zip(fixed, pieces[1::2], strict=True)
    )
    return re.compile(named + re.escape(last.replace("%%", "%")), re.DOTALL)


def _value(name: str) -> str:
    """The pattern of what stands in a place of a phrase, by the name of the place."""
    return r"[\d.,e+-]+" if name.startswith("n_") else "s?" if name == "plural" else ".*?"


@dataclass(frozen=True)
class Edition:
    """A report in one language: its words, what its files have before their suffix, and the other edition if any."""

    words: Words
    ending: str = ""
    other: "Edition | None" = None

    def file(self, name: str, suffix: str) -> str:
        return f"{name}{self.ending}{suffix}"


def editions(language: str) -> list[Edition]:
    """The editions of a report: one in English or Chinese, or both with the Chinese one under `NAME.zh.html`."""
    if language != BOTH:
        return [Edition(words_of(language))]
    english, chinese = Edition(words_of(ENGLISH)), Edition(words_of(CHINESE), f".{CHINESE}")
    return [Edition(english.words, other=chinese), Edition(chinese.words, chinese.ending, english)]


@cache
def words_of(language: str) -> Words:
    """The words of `en` or `zh`, with its catalogue."""
    return Words(language, NullTranslations() if language == ENGLISH else _catalogue(language))


def _catalogue(language: str) -> GNUTranslations:
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    place = files("kronos.report") / "locale" / language / "LC_MESSAGES" / "kronos.po"
    compiled = io.BytesIO()
    with place.open("rb") as stream:
        write_mo(compiled, read_po(stream, locale=language))
    return GNUTranslations(io.BytesIO(compiled.getvalue()))


IN_ENGLISH = Words(ENGLISH, NullTranslations())

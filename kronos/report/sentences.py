"""Sentences of a report that list comparisons: what the model or its portfolio beats, and what it does not."""

from collections.abc import Mapping, Sequence
from datetime import date

from kronos.evaluation.portfolio import Excess
from kronos.evaluation.ranking import Comparison
from kronos.evaluation.statistics import Estimate
from kronos.report.language import Words
from kronos.report.numbers import interval_text, number_text

MOST_DEPARTED = 5  # instruments that are named


class Sentences:
    """The sentences in one language."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def of_ranking(self, comparisons: Sequence[Comparison]) -> str:
        """What the model beats in Rank IC, what it equals and what beats it, in this order."""
        gettext = self._words.gettext
        clauses: list[str] = []
        for sign in (1, 0, -1):
            others = [
                gettext(
                    "%(name)s (difference %(mean)s, %(interval)s)", name=self._words.phrase(one.name),
                    mean=number_text(one.difference.mean, "{:+.4f}"),
                    interval=interval_text(one.difference, "{:+.4f}", words=self._words),
                )
                for one in comparisons if one.difference.sign == sign
            ]  # fmt: skip
            if others:
                clauses.append(self._clause("it" if clauses else "model", sign, self._listed(others)))
        return gettext(
            "In Rank IC over the same instruments and days, %(clauses)s.", clauses=self._joined(clauses)
        )

    def of_portfolio(self, excesses: Sequence[Excess]) -> str:
        """What the portfolio beats after costs, one after the other."""
        clauses = [
            self._excess("portfolio" if not place else "it", one.name, one.difference, one.periods)
            for place, one in enumerate(excesses)
        ]
        return self._words.gettext("After costs %(clauses)s.", clauses=self._joined(clauses))

    def of_benchmark(self, difference: Estimate, periods: float) -> str:
        """The same of the benchmark alone; `difference` is per day, and `periods` make a year."""
        clause = self._excess("portfolio", "the benchmark", difference, periods)
        return self._words.gettext("After costs %(clauses)s.", clauses=clause)

    def against_it(self, difference: Estimate) -> str:
        """The verdict of one row of a table, by the interval of the difference."""
        gettext = self._words.gettext
        return {
            1: gettext("beats it"), 0: gettext("is indistinguishable from it"), -1: gettext("underperforms it"),
        }[difference.sign]  # fmt: skip

    def departed(self, last_days: Mapping[str, date]) -> str:
        """The instruments with the day of their last bar, five at most."""
        gettext = self._words.gettext
        named = [
            gettext("%(name)s on %(day)s", name=name, day=f"{day:%Y-%m-%d}")
            for name, day in last_days.items()
        ]
        text = ""
        for one in named[:MOST_DEPARTED]:
            text = gettext("%(first)s, %(second)s", first=text, second=one) if text else one
        more = len(named) - MOST_DEPARTED
        return gettext("%(names)s and %(count)s more", names=text, count=more) if more > 0 else text

    def _excess(self, subject: str, name: str, difference: Estimate, periods: float) -> str:
        other = self._words.gettext(
            "%(name)s (excess return %(mean)s per year, %(interval)s)", name=self._words.phrase(name),
            mean=number_text(difference.mean * periods, "{:+.1%}"),
            interval=interval_text(difference, "{:+.1%}", periods, self._words),
        )  # fmt: skip
        return self._clause(subject, difference.sign, other)

    def _clause(self, subject: str, sign: int, others: str) -> str:
        gettext = self._words.gettext
        return {
            ("model", 1): gettext("the model beats %(others)s", others=others),
            ("model", 0): gettext("the model is indistinguishable from %(others)s", others=others),
            ("model", -1): gettext("the model underperforms %(others)s", others=others),
            ("portfolio", 1): gettext("the portfolio beats %(others)s", others=others),
            ("portfolio", 0): gettext("the portfolio is indistinguishable from %(others)s", others=others),
            ("portfolio", -1): gettext("the portfolio underperforms %(others)s", others=others),
            ("it", 1): gettext("it beats %(others)s", others=others),
            ("it", 0): gettext("it is indistinguishable from %(others)s", others=others),
            ("it", -1): gettext("it underperforms %(others)s", others=others),
        }[subject, sign]

    def _listed(self, items: Sequence[str]) -> str:
        text = items[0]
        for item in items[1:-1]:
            text = self._words.gettext("%(first)s, %(second)s", first=text, second=item)
        if len(items) > 1:
            text = self._words.gettext("%(first)s and %(last)s", first=text, last=items[-1])
        return text

    def _joined(self, clauses: Sequence[str]) -> str:
        text = clauses[0]
        for clause in clauses[1:]:
            text = self._words.gettext("%(first)s; %(second)s", first=text, second=clause)
        return text

"""Reports in Chinese: a whole catalogue, the same numbers, no English left; English pages as they were."""

import ast
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po
from catalogue import CATALOGUE, PLACEHOLDER, Message, messages
from made_heads import make_heads
from made_reports import latest, make_board, make_folds, make_risks, make_variants, pages
from test_audit_page import SETTING, made

from kronos.evaluation.audit import KINDS
from kronos.report import audit, heads, leaderboard, rendering, walk_forward, writer
from kronos.report.language import words_of
from kronos.report.pages import forecasts
from kronos.report.phrases import PHRASES
from kronos.report.saved_content import FILE, save, write_again
from kronos.report.walk_forward import PooledInputs
from kronos.utils.files import PACKAGE

# Words of a Chinese report that are not translated: names, abbreviations, fields, files, commands, signals.
NAMES = """
    Rank IC ICIR t p k K MAE RMSE MAPE CRPS R2 Holm Wilson Student Diebold Mariano Harvey Leybourne Newbold Lazarus
    Lewis Stock Watson Qlib Kronos arXiv LightGBM Alpha158 GARCH EWMA VaR ES n a mean last max min csi300 garch second
    first python m kronos calibrate pip install pipeline arch NeoQuasar small runs abc csv top pinball html plotly js
    accuracy_by_instrument time_series_ledgers test_time_range backtest_delisting_return predict_figures forecasts
    ARG MFE SH000300 ab12 cd34 AUC Brier QLIKE HAR lora parquet
"""
NUMBER = re.compile(r"(?<![A-Za-z0-9_.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are the same in every language, and take most of a report's time."""
    monkeypatch.setattr(rendering, "_data_address", lambda path: f"data:{path.stem}")
    monkeypatch.setattr(forecasts, "copy_plotly", lambda folder: None)


@pytest.fixture(scope="module", params=["others", pytest.param("backtests", marks=pytest.mark.slow)])
def reports(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What each report is written from: the arguments of its writer but the folder and the language."""
    if request.param == "backtests":
        return {f"backtest {name}": {"inputs": one} for name, one in make_variants().items()}
    cases = [made(bars, name, planted, 62 if planted == 0.02 else 5, 40 if bars == "mirrored" else 10)
             for bars, (_, pairs) in KINDS.items() for name, planted in pairs]  # fmt: skip
    folds = {
        "signal": "mean", "horizon": 5, "periods_per_year": 251.5, "before_spacing": 5, "looks_before": 2,
        "warnings": ["the predictor is from runs:/abc: the days that it was trained on are not known."],
    }  # fmt: skip
    return {
        "benchmark": {"board": make_board()},
        "audit": {"setting": SETTING, "cases": cases},
        "walk_forward": {"inputs": PooledInputs(folds=make_folds(), refit=True, **folds)},
        "walk_forward short": {"inputs": PooledInputs(folds=make_folds(20), refit=False, **folds)},
        "predict": {"charts": latest(), "risks": make_risks(), "drawdown": 0.05},
        **{f"head {name}": {"page": page} for name, page in make_heads().items()},
    }


WRITERS: dict[str, Any] = {
    "backtest": writer.write_report_pages, "benchmark": leaderboard.write_board_pages,
    "audit": audit.write_audit_pages, "walk_forward": walk_forward.write_pooled_pages,
    "predict": forecasts.write_ranking, "head": heads.write_head_pages,
}  # fmt: skip


def written(folder: Path, name: str, content: dict[str, Any], language: str) -> dict[str, str]:
    folder.mkdir()
    WRITERS[name.split()[0]](folder, **content, language=language)
    return pages(folder)


def shown(page: str) -> str:
    """The text of a page without its scripts and styles; the names in its charts included."""
    data = "".join(re.findall(r'<script type="application/json".*?</script>', page, re.DOTALL))
    names = re.findall(r'"(?:name|text|kind|hovertemplate)":("(?:[^"\\]|\\.)*")', data)
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL) + " ".join(map(json.loads, names))
    page = re.sub(r'<[^>]*?(?:alt|aria-label|placeholder)="([^"]*)"[^>]*>', r" \1 ", page)
    return html.unescape(re.sub(r"<[^>]+>|%\{[^}]*\}|\]\(figures/\w+\.png\)", " ", page))


def places(message: Message) -> set[str]:
    texts = [message] if isinstance(message, str) else message
    return {name for text in texts for name in PLACEHOLDER.findall(text)} - {"plural"}


def test_the_catalogue_has_every_message_with_the_same_places_and_no_other():
    with CATALOGUE.open("rb") as stream:
        entries = [one for one in read_po(stream, locale="zh") if one.id]
    known = {one.id: one for one in entries}
    wanted = messages()
    assert [one for one in wanted if one not in known] == [], "not in the catalogue"
    assert [one for one in known if one not in wanted] == [], "not in a report any more"
    for message, one in known.items():
        texts = [one.string] if isinstance(one.string, str) else list(one.string)
        assert len(texts) == 1 and texts[0] and not one.fuzzy, message
        assert set(PLACEHOLDER.findall(texts[0])) == places(message), message
        assert not re.search(r"%(?!%|\(\w+\)s)", texts[0].replace("%%", "")), message
        assert (
            re.search(r"[\u4e00-\u9fff]", texts[0]) or PLACEHOLDER.search(texts[0]) or texts[0] == "LightGBM"
        )


def test_every_phrase_of_another_package_is_written_so_in_the_code():
    found = set()
    sources = [
        path for name in ("data", "evaluation", "report", "stages") for path in (PACKAGE / name).rglob("*.py")
    ]
    for path in sources:
        if path.name == "phrases.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add(
                    "".join(one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    forms = {phrase: PLACEHOLDER.sub("{}", phrase).replace("%%", "%") for phrase in PHRASES}
    assert [phrase for phrase, form in forms.items() if form not in found] == []


def test_a_phrase_is_translated_with_what_stands_in_its_places_and_any_other_text_stays():
    words = words_of("zh")
    assert words.phrase("too short to tell (57 days, 1 independent 5-day period)") == (
        "时段太短，无法判断（57 个交易日、1 个独立的 5 日时段）"
    )
    assert words.phrase(
        "not compared: the weights at runs:/a are not those that the predictor was trained from"
    ) == ("未比较：runs:/a 的权重不是预测模型的训练起点")
    assert words.phrase("a closing sentence of mine, 100 % so.") == "a closing sentence of mine, 100 % so."
    assert words_of("en").phrase("last price") == "last price"


def test_chinese_pages_have_no_english_but_names_and_the_numbers_of_the_english_ones(reports, tmp_path):
    for name, content in reports.items():
        english = written(tmp_path / f"{name} en", name, content, "en")
        chinese = written(tmp_path / f"{name} zh", name, content, "zh")
        assert english.keys() == chinese.keys()
        for page, text in chinese.items():
            latin = {
                one for one in re.findall(r"[A-Za-z_]\w*", shown(text)) if not re.fullmatch(r"N\d\d", one)
            }
            assert latin - set(NAMES.split()) == set(), (name, page)
            if page.endswith(".html"):
                assert '<html lang="zh-CN">' in text and '<html lang="en">' in english[page]
            if getattr(content.get("inputs"), "looks_before", 2) == 1:
                continue  # "once" is 1 in Chinese
            numbers = [Counter(NUMBER.findall(shown(one))) for one in (english[page], text)]
            assert numbers[0] == numbers[1], (name, page, numbers[0] - numbers[1], numbers[1] - numbers[0])


def test_both_languages_stand_side_by_side_and_each_page_links_to_the_other(reports, tmp_path):
    for name in {"backtest short", "audit", "predict"} & reports.keys():
        english, chinese = (
            written(tmp_path / f"{name} {one}", name, reports[name], one) for one in ("en", "zh")
        )
        both = written(tmp_path / f"{name} both", name, reports[name], "both")
        assert both.keys() == {*english, *(one.replace(".", ".zh.") for one in english)}
        for page in english:
            other = page.replace(".", ".zh.")
            links = (
                (
                    f'<a href="{other}" lang="zh-CN">中文</a>&ensp;',
                    f'<a href="{page}" lang="en">English</a>&ensp;',
                )
                if page.endswith(".html")
                else (f"[中文]({other})\n\n", f"[English]({page})\n\n")
            )
            assert both[page].replace(links[0], "") == english[page]
            assert (
                both[other].replace(links[1], "").replace("forecasts.zh.html", "forecasts.html")
                == chinese[page]
            )


def test_pages_written_again_from_what_was_kept_are_the_same_bytes(reports, tmp_path):
    enough = ("backtest short", "backtest asset_short", "backtest loss")
    for name, content in reports.items():
        if name.startswith("backtest") and name not in enough:
            continue
        first = written(tmp_path / name, name, content, "both")
        kept = []
        for _ in range(2):
            save(tmp_path / name, name.split()[0], **content)
            kept.append((tmp_path / name / FILE).read_bytes())
        assert kept[0] == kept[1], "equal contents give equal files"
        for page in first:
            (tmp_path / name / page).unlink()
        write_again(tmp_path / name, "both")
        assert pages(tmp_path / name) == first, name

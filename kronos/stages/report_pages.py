"""The language of a finished stage's report: its pages are written again where another one is asked for."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronos.stages.cache import file_digests, rewrite_record
from kronos.utils.files import RECORD, atomic_folder

LANGUAGE = "report_language"  # in the record of a stage with a report


def in_language(folder: Path, record: Mapping[str, Any], language: str) -> Mapping[str, Any]:
    """The record of a finished output whose pages are in `language`: en, zh or both.

    Where they were in another one, they are written again and the folder is replaced as a whole; all else in it
    stays. A record of a stage without a report is returned as it is.
    """
    if record.get(LANGUAGE, language) == language:
        return record
    from kronos.report.saved_content import write_again  # imports torch, which the data stage does without

    with atomic_folder(folder) as changed:
        shutil.copytree(folder, changed, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
        for page in _pages(changed):
            page.unlink()
        write_again(changed, language)
        kept = {name for name in record["outputs"] if (changed / name).is_file()}
        names = sorted(kept | {page.name for page in _pages(changed)})
        return rewrite_record(
            changed, record, **{LANGUAGE: language, "outputs": file_digests(changed, names)}
        )


def _pages(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".md", ".html")]

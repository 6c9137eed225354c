"""Processors: a source of one's own, the factory, and the key that says what a store was made from."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kronos
from kronos.config import registries
from kronos.data.sources import sample
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.sample import SampleDataProcessor
from kronos.data.sources.source_code import source_code_digest
from kronos.data.store import BarStore, open_store
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataProcessorFactory, "_classes", dict(DataProcessorFactory._classes))
    monkeypatch.setattr(registries, "SOURCES", list(registries.SOURCES))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def custom(make_bars: MakeBars) -> type[BaseDataProcessor]:
    class CustomDataProcessor(BaseDataProcessor):
        calendar = "XNYS"

        def download_data(self) -> None:
            self.downloaded = make_bars(40).rename(columns={"volume": "vol"})

        def process_raw_data(self) -> pd.DataFrame:
            return self.downloaded

        def fingerprint(self) -> str:
            return "forty days"

    return CustomDataProcessor


@pytest.fixture
def config(settings: Any, tmp_path: Path) -> Any:
    begin, end = date(2020, 1, 1), date(2020, 12, 31)
    return settings(str(tmp_path / "data"), "custom", begin, end)


def test_a_registered_class_builds_its_store(custom: type[BaseDataProcessor], config: Any) -> None:
    DataProcessorFactory.register("Custom", custom)
    store = DataProcessorFactory.create_processor("custom", config).run_pipeline()
    assert isinstance(store, BarStore)
    assert str(store.path) == config.dataset_path and len(store) == 80
    assert store.source["name"] == "custom" and store.calendar == "XNYS"
    assert open_store(config.dataset_path).digest == store.digest


def test_a_registered_name_is_one_that_configurations_accept(custom: type[BaseDataProcessor]) -> None:
    assert set(registries.SOURCES) == {*DataProcessorFactory._classes, "auto"}
    DataProcessorFactory.register("MyBars", custom)
    DataProcessorFactory.register("mybars", custom)
    assert registries.SOURCES.count("mybars") == 1
    assert set(registries.SOURCES) == {*DataProcessorFactory._classes, "auto"}


def test_only_the_configured_days_are_stored(custom: type[BaseDataProcessor], config: Any) -> None:
    part = replace(config, dataset_begin_time=date(2020, 1, 6), dataset_end_time=date(2020, 1, 10))
    store = custom(part).run_pipeline()
    assert len(store) == 10 and store.last_session == 4
    assert store.source["notes"][-1] == (  # not silently: the newest bars of a source may be among them
        "70 bars of days outside 2020-01-06..2020-01-10 (dataset_begin_time..dataset_end_time) are left out; the "
        "source has 2020-01-02..2020-02-28."
    )


def test_a_range_without_bars_says_what_the_source_has(
    custom: type[BaseDataProcessor], config: Any, tmp_path: Path
) -> None:
    other = replace(config, dataset_begin_time=date(2011, 1, 1), dataset_end_time=date(2012, 1, 1))
    with pytest.raises(UserError) as caught:
        custom(other).run_pipeline()
    assert str(caught.value) == (
        "data_source=custom has no bar in 2011-01-01..2012-01-01 (dataset_begin_time..dataset_end_time): "
        "it has 2020-01-02..2020-02-28"
    )
    assert not (tmp_path / "data").exists()


def test_key_tells_whether_a_store_is_of_this_configuration(
    custom: type[BaseDataProcessor], config: Any
) -> None:
    processor = custom(config)
    store = processor.run_pipeline()
    assert store.key == processor.key() == custom(replace(config, dataset_path="elsewhere")).key()
    assert store.key != custom(replace(config, dataset_end_time=date(2020, 2, 1))).key()
    assert store.key != DataProcessorFactory.create_processor("sample", config).key()
    assert custom(config).run_pipeline(key="the stage's own").key == "the stage's own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yahoo", "no data_source 'yahoo': choose from akshare, auto, baostock, ccxt, csv, "),
        ("no_such_package:Source", "no_such_package cannot be imported .*: install it"),
        ("kronos.data.bars:Source", "module kronos.data.bars has no 'Source'"),
        ("kronos.data.bars:Flag", "Flag is not a subclass of kronos.BaseDataProcessor"),
    ],
)
def test_a_source_that_is_none_is_refused(config: Any, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataProcessorFactory.create_processor(name, config)


def test_a_class_named_by_its_module_builds_its_store(settings: Any, tmp_path: Path) -> None:
    name = "kronos.data.sources.sample:SampleDataProcessor"
    processor = DataProcessorFactory.create_processor(name, settings(str(tmp_path / "data"), name))
    assert len(processor.run_pipeline().instruments) == 524


OWN = """
from kronos import BaseDataProcessor

class Mine(BaseDataProcessor):
    def fingerprint(self):
        return "one"
"""


def own_class(name: str, text: str, config: Any) -> BaseDataProcessor:
    """The class `Mine` of a module in the current folder, imported as a new process would."""
    Path(f"{name}.py").write_text(text)
    sys.modules.pop(name, None)
    return DataProcessorFactory.create_processor(f"{name}:Mine", config)


def test_a_class_without_a_fingerprint_is_never_reused(config: Any) -> None:
    class Unknown(BaseDataProcessor):
        pass

    one = Unknown(config)
    assert one.fingerprint() is None and not one.reusable
    assert one.input_digest() != one.input_digest() and one.key() != one.key()


def test_the_key_of_ones_own_class_follows_its_code_and_its_fingerprint(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = own_class("own_bars", OWN, config)
    assert first.reusable and first.key() == own_class("own_bars", OWN, config).key()
    others = [own_class("own_bars", text, config) for text in (OWN + "# note", OWN.replace("one", "two"))]
    assert len({one.input_digest() for one in (first, *others)}) == 3
    assert len({one.key() for one in (first, *others)}) == 3


def test_the_code_of_a_base_in_another_module_counts_too(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    derived = "from own_base import Mine as Base\n\nclass Mine(Base):\n    pass\n"
    digests = []
    for text in (OWN, OWN + "# changed", OWN):
        Path("own_base.py").write_text(text)
        sys.modules.pop("own_base", None)
        digests.append(own_class("own_derived", derived, config).input_digest())
    assert digests[0] == digests[2] != digests[1]


def test_a_class_keeps_the_digest_of_the_code_that_was_loaded(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = own_class("own_bars", OWN, config)
    before = loaded.input_digest()
    Path("own_bars.py").write_text(OWN + "# edited while the class is in use")
    assert loaded.input_digest() == before


def test_code_without_a_source_file_is_not_reusable(config: Any) -> None:
    names: dict[str, Any] = {"__name__": "typed_at_a_prompt"}
    exec(OWN, names)
    assert not names["Mine"](config).reusable


def test_built_in_sources_have_no_code_of_the_users(config: Any) -> None:
    class Derived(SampleDataProcessor):
        pass

    assert source_code_digest(SampleDataProcessor) == ""
    assert source_code_digest(Derived) not in ("", None)
    assert SampleDataProcessor(config).reusable
    assert Derived(config).input_digest() != SampleDataProcessor(config).input_digest()


@pytest.mark.parametrize("version", ["1.0.4", "1.0.5"])
def test_the_sample_is_known_by_the_version_of_its_package(
    config: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = DataProcessorFactory.create_processor("sample", config)
    monkeypatch.setattr(sample.metadata, "version", lambda name: "1.0.4")
    before = processor.input_digest()
    monkeypatch.setattr(sample.metadata, "version", lambda name: version)
    assert (processor.input_digest() == before) == (version == "1.0.4")


def test_a_module_in_the_current_folder_is_found_where_python_does_not_look_by_itself(tmp_path: Path) -> None:
    """The `kronos` script starts with its own folder on the path; -P leaves out the current one, as it does."""
    (tmp_path / "mybars.py").write_text(OWN)
    code = (
        "import sys; from kronos import DataProcessorFactory as factory; "
        "print(type(factory.create_processor('mybars:Mine', None)).__module__, sys.path[0])"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(kronos.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True
    )
    assert done.stdout.split() == ["mybars", str(tmp_path.resolve())], done.stderr


def test_an_unfinished_class_says_what_it_lacks(config: Any) -> None:
    class Empty(BaseDataProcessor):
        pass

    class Nothing(BaseDataProcessor):
        def process_raw_data(self) -> Any:
            return None

    with pytest.raises(UserError, match=r"Empty needs process_raw_data\(\): return the bars"):
        Empty(config).run_pipeline()
    with pytest.raises(UserError, match="bars must come as a pandas DataFrame, got NoneType"):
        Nothing(config).run_pipeline()


def test_building_twice_gives_the_same_store(settings: Any, sample_store: BarStore, tmp_path: Path) -> None:
    config = settings(str(tmp_path / "again"))
    again = DataProcessorFactory.create_processor("sample", config).run_pipeline()
    assert again.digest == sample_store.digest
    for name in ("values.npy", "findings.json", "index.json", "data_report.md"):
        assert (again.path / name).read_bytes() == (sample_store.path / name).read_bytes()

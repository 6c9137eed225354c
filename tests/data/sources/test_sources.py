"""Processors: a source of one's own, the factory, and the key that says what a store was made from."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.store import BarStore, open_store
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataProcessorFactory, "_classes", dict(DataProcessorFactory._classes))


@pytest.fixture
def custom(make_bars: MakeBars) -> type[BaseDataProcessor]:
    class CustomDataProcessor(BaseDataProcessor):
        calendar = "XNYS"

        def download_data(self) -> None:
            self.downloaded = make_bars(40).rename(columns={"volume": "vol"})

        def process_raw_data(self) -> pd.DataFrame:
            return self.downloaded

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
    assert not processor.reusable and processor.key() != processor.key() != store.key

    class Known(custom):  # type: ignore[misc, valid-type]
        def fingerprint(self) -> Any:
            return {"version": 1}

    processor = Known(config)
    store = processor.run_pipeline()
    assert store.key == processor.key() == Known(replace(config, dataset_path="elsewhere")).key()
    assert store.key != Known(replace(config, dataset_end_time=date(2020, 2, 1))).key()
    assert store.key != DataProcessorFactory.create_processor("sample", config).key()
    assert custom(config).run_pipeline(key="the stage's own").key == "the stage's own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yahoo", "no data_source 'yahoo': choose from csv, qlib, sample, sina, or name a class"),
        ("no_such_package:Source", "no_such_package cannot be imported .*: install it"),
        ("kronos.data.bars:Source", "module kronos.data.bars has no 'Source'"),
        ("kronos.data.bars:Flag", "Flag is no subclass of kronos.BaseDataProcessor"),
    ],
)
def test_a_source_that_is_none_is_refused(config: Any, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataProcessorFactory.create_processor(name, config)


def test_a_class_named_by_its_module_builds_its_store(settings: Any, tmp_path: Path) -> None:
    name = "kronos.data.sources.sample:SampleDataProcessor"
    processor = DataProcessorFactory.create_processor(name, settings(str(tmp_path / "data"), name))
    assert len(processor.run_pipeline().instruments) == 524


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

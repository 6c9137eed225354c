"""What a report warns of: days of the backtest that training, validation or pretraining may have seen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.config.schema import Config
from kronos.data.splits import GUIDE, Ranges
from kronos.evaluation.benchmark import benchmark, fingerprint
from kronos.stages import provenance
from kronos.utils.digests import with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

CLEAN = {"pretrained_tokenizer_path": None, "pretrained_predictor_path": None}


class Store:
    """As much of a bar store as the benchmark reads."""

    benchmark_name, benchmark, instruments, findings = None, None, ("A", "B", "SH000300"), ()


def config(**changes) -> Config:
    return Config(**{"data_source": "sample", **changes})


def seen_before(given: Config) -> list[str]:
    """Of a configuration whose ranges are used as they are given, the others being the guide's."""
    data = given.data
    ranges = Ranges(
        data.train_time_range or GUIDE["train"], data.val_time_range or GUIDE["val"],
        data.test_time_range or GUIDE["test"], data.backtest_time_range or GUIDE["backtest"],
    )  # fmt: skip
    return provenance.seen_before(given, ranges)


def test_a_clean_split_from_random_weights_has_no_warning():
    assert seen_before(config(**CLEAN)) == []
    assert seen_before(config()) == []  # the public weights saw nothing after 2024-06-30


def test_public_weights_warn_of_days_up_to_the_middle_of_2024():
    early = config(
        val_time_range=("2022-09-01", "2023-03-31"), test_time_range=("2023-01-01", "2025-06-05"),
        backtest_time_range=("2023-06-01", "2025-06-05"),
    )  # fmt: skip
    found = seen_before(early)
    assert len(found) == 2 and all("up to 2024-06-30" in sentence for sentence in found)
    assert "NeoQuasar/Kronos-small" in found[1]


def test_weights_from_elsewhere_warn_by_their_own_record(tmp_path):
    best = tmp_path / "model" / "checkpoints" / "best_model"
    best.mkdir(parents=True)
    fields = {
        "train_time_range": "2011-01-01,2024-12-31", "val_time_range": "2025-01-01,2025-03-31",
        "pretrained_predictor_path": "none",
    }  # fmt: skip
    write_json(tmp_path / "model" / "summary.json", with_own_digest({"made_from": {"fields": fields}}))
    found = seen_before(config(**CLEAN, predictor_path=str(best)))
    assert found == [
        "the predictor was trained on days of the backtest: 2024-07-01 to 2024-12-31 lie within "
        "2011-01-01 to 2024-12-31.",
        "the predictor was chosen by validation on days of the backtest: 2025-01-01 to 2025-03-31 lie within "
        "2025-01-01 to 2025-03-31.",
    ]
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (found,) = seen_before(config(**CLEAN, predictor_path=str(unknown)))
    assert "the days that it was trained on are not known" in found and str(tmp_path) not in found


def test_training_after_the_backtest_is_warned_of(tmp_path):
    write_json(
        tmp_path / "summary.json",
        with_own_digest({"made_from": {"fields": {"train_time_range": "2025-07-01,2025-12-31"}}}),
    )
    (found,) = seen_before(config(**CLEAN, predictor_path=str(tmp_path)))
    assert "on days after the backtest (2025-07-01 to 2025-12-31)" in found


def bars() -> tuple[pd.DataFrame, pd.DataFrame]:
    days = pd.bdate_range("2024-07-01", periods=6, name="datetime")
    close = pd.DataFrame(np.random.default_rng(0).uniform(5, 6, (6, 3)), days, ["A", "B", "SH000300"])
    return close, pd.DataFrame(True, days, close.columns)


def test_the_benchmark_is_an_instrument_a_file_or_the_equal_weight(tmp_path):
    close, member = bars()
    found = benchmark(config(backtest_benchmark="SH000300"), Store(), close, member, 0.001, 0.0015)
    pd.testing.assert_series_equal(found.returns, close["SH000300"].pct_change(), check_names=False)
    assert found.cost is None and set(found.others) == {"equal_weight", "equal_weight_with_cost", "index"}

    path = tmp_path / "index.csv"
    close["A"].rename("close").to_csv(path, index_label="date")
    wanted = config(backtest_benchmark=str(path))
    found = benchmark(wanted, Store(), close, member, 0.001, 0.0015)
    np.testing.assert_allclose(found.returns, close["A"].pct_change())
    assert found.name == "closes of index.csv"
    before = fingerprint(wanted, Store())
    close["B"].rename("close").to_csv(path, index_label="date")
    assert fingerprint(wanted, Store()) != before and fingerprint(config(), Store()) == "none"

    equal = benchmark(config(backtest_benchmark="equal_weight"), Store(), close, member, 0.001, 0.0015)
    assert equal.cost is not None and set(equal.others) == {"equal_weight", "equal_weight_with_cost"}
    np.testing.assert_allclose(equal.returns.iloc[1:], close.pct_change().mean(axis=1).iloc[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date,price\n2024-07-01,1\n", "columns date, price: expected datetime .or date. and close"),
        ("date,close\nsoon,1\n", "index.csv: "),
        ("date,close\n2024-07-01,-1\n", "one positive close per day"),
        ("date,close\n2024-07-04,1\n", "has no close by 2024-07-02: give one that covers the backtest"),
    ],
)
def test_a_benchmark_file_that_cannot_serve_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str):
    path = tmp_path / "index.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        benchmark(config(backtest_benchmark=str(path)), Store(), *bars(), 0.001, 0.0015)


def test_an_unknown_benchmark_names_what_can_be_given():
    with pytest.raises(UserError, match="'SP500': no such instrument among the 3 stored ones"):
        benchmark(
            config(backtest_benchmark="SP500", qlib_data_path="/nowhere"), Store(), *bars(), 0.001, 0.0015
        )
    with pytest.raises(UserError, match="cannot be read"):
        benchmark(config(backtest_benchmark="/nowhere/index.csv"), Store(), *bars(), 0.001, 0.0015)


def test_pretrained_weights_of_a_folder_warn_by_their_own_record(tmp_path):
    write_json(
        tmp_path / "summary.json",
        with_own_digest({"made_from": {"fields": {"train_time_range": "2011-01-01,2024-12-31"}}}),
    )
    (found,) = seen_before(config(**{**CLEAN, "pretrained_predictor_path": str(tmp_path)}))
    assert f"comes from weights ({tmp_path.name})" in found and "up to 2024-12-31: only later days" in found
    (tmp_path / "summary.json").unlink()
    (found,) = seen_before(config(**{**CLEAN, "pretrained_predictor_path": str(tmp_path)}))
    assert "the days that it was trained on are not known" in found

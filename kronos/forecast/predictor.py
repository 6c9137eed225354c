"""KronosPredictor: forecasts from DataFrames of bars, with the public signatures and more options."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from kronos.forecast.arrays import forecast_arrays
from kronos.forecast.paths import Paths
from kronos.forecast.series import Series, check_series
from kronos.model import Kronos, KronosTokenizer, check_pair
from kronos.utils.errors import UserError


class KronosPredictor:
    """Forecasts bars with a tokenizer and a predictor that were trained together.

    Both are moved to `device` (None: they stay where they are). Dropout never applies, whatever their mode,
    which is not changed. Draws come from `seed` or `generator`, or without either from the system's entropy;
    torch's global random state is neither read nor changed. `fine_rotary`, `sliding`, `dtype` and `compiled`: see
    `Engine`.

    Every method takes, for each series: bars as a DataFrame (open high low close; volume and amount where
    known: without volume both are 0, without amount it is volume x mean price; further columns where the
    tokenizer was trained on them, see its `columns`), the times of the bars and the times to forecast
    (DatetimeIndex, Series or list, rising). Mistakes raise UserError. Of a predictor with conditions the
    DataFrame may have columns of their names; one that is not there, an empty cell and a category that the
    predictor does not know, of which a warning is given, are missing values. Time features from the calendar
    are those of the exchange that the predictor was trained on, or of `calendar` (XNYS, XSHG, ...).
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        device: str | torch.device | None = None,
        max_context: int = 512,
        clip: float = 5,
        *,
        fine_rotary: Literal["public", "trained"] = "public",
        sliding: Literal["exact", "cached"] = "exact",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        calendar: str | None = None,
    ) -> None:
        check_pair(tokenizer, model)
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer if device is None else tokenizer.to(device)
        self.max_context, self.clip = max_context, clip
        self.fine_rotary: Literal["public", "trained"] = fine_rotary
        self.sliding: Literal["exact", "cached"] = sliding
        self.dtype, self.compiled, self.calendar = dtype, compiled, calendar

    def predict(
        self,
        df: pd.DataFrame,
        x_timestamp: Any,
        y_timestamp: Any,
        pred_len: int,
        T: float = 1.0,
        top_k: int | None = 0,
        top_p: float | None = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        repair: bool = False,
    ) -> pd.DataFrame:
        """Return the mean of the sample paths: pred_len rows, the tokenizer's columns, indexed by `y_timestamp`.

        `repair` makes every path possible before the mean (volume, high and low); raw otherwise.
        """
        return self.predict_paths(
            df, x_timestamp, y_timestamp, pred_len, T, top_k, top_p, sample_count, verbose,
            seed=seed, generator=generator, repair=repair,
        ).mean()  # fmt: skip

    def predict_batch(
        self,
        df_list: Sequence[pd.DataFrame],
        x_timestamp_list: Sequence[Any],
        y_timestamp_list: Sequence[Any],
        pred_len: int,
        T: float = 1.0,
        top_k: int | None = 0,
        top_p: float | None = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        repair: bool = False,
    ) -> list[pd.DataFrame]:
        """`predict` for many series, in their order; their lengths may differ.

        With a seed, a series' draws depend on its place in the list, not on the others.
        """
        paths = self.predict_paths_batch(
            df_list, x_timestamp_list, y_timestamp_list, pred_len, T, top_k, top_p, sample_count, verbose,
            seed=seed, generator=generator, repair=repair,
        )  # fmt: skip
        return [one.mean() for one in paths]

    def predict_paths(
        self,
        df: pd.DataFrame,
        x_timestamp: Any,
        y_timestamp: Any,
        pred_len: int,
        T: float = 1.0,
        top_k: int | None = 0,
        top_p: float | None = 0.9,
        sample_count: int = 20,
        verbose: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        repair: bool = False,
    ) -> Paths:
        """Return the sample paths themselves, with their mean, standard deviation and quantiles."""
        series = [check_series(df, x_timestamp, y_timestamp, pred_len, "df", *self._described)]
        rules = {"temperature": T, "top_k": top_k, "top_p": top_p, "sample_count": sample_count}
        return self._run(series, pred_len, rules, _seed(seed, generator), verbose, repair)[0]

    def predict_paths_batch(
        self,
        df_list: Sequence[pd.DataFrame],
        x_timestamp_list: Sequence[Any],
        y_timestamp_list: Sequence[Any],
        pred_len: int,
        T: float = 1.0,
        top_k: int | None = 0,
        top_p: float | None = 0.9,
        sample_count: int = 20,
        verbose: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        repair: bool = False,
    ) -> list[Paths]:
        """`predict_paths` for many series, in their order; their lengths may differ."""
        lists = {
            "df_list": df_list,
            "x_timestamp_list": x_timestamp_list,
            "y_timestamp_list": y_timestamp_list,
        }
        for name, given in lists.items():
            if not isinstance(given, (list, tuple)):
                raise UserError(
                    f"{name} is a {type(given).__name__}, expected a list with one entry per series"
                )
        if len({len(given) for given in lists.values()}) > 1:
            lengths = ", ".join(f"{name} {len(given)}" for name, given in lists.items())
            raise UserError(f"the lists differ in length: {lengths}")
        series = [
            check_series(frame, past, future, pred_len, f"df_list[{place}]", *self._described)
            for place, (frame, past, future) in enumerate(
                zip(df_list, x_timestamp_list, y_timestamp_list, strict=True)
            )
        ]
        rules = {"temperature": T, "top_k": top_k, "top_p": top_p, "sample_count": sample_count}
        return self._run(series, pred_len, rules, _seed(seed, generator), verbose, repair)

    @property
    def _described(self) -> tuple[list[dict[str, Any]] | None, Sequence[str], dict[str, Any] | None]:
        """(the conditions of the predictor, the columns of the tokenizer, the predictor's time features)."""
        conditions, features = (self.model.config.get(key) for key in ("conditions", "time_features"))
        if features is not None and self.calendar is not None:
            features = {**features, "calendar": self.calendar}
        return None if conditions is None else conditions["columns"], self.tokenizer.columns, features

    def _run(
        self, series: list[Series], horizon: int, rules: dict, seed: int, verbose: bool, repair: bool
    ) -> list[Paths]:
        """Forecast the series of one length at a time; the key of a series' draws is its place in the list."""
        done: dict[int, Paths] = {}
        bar = tqdm(total=len(series), desc="forecast", unit="series") if verbose else nullcontext()
        with bar as shown:
            for length in sorted({len(one.bars) for one in series}):
                places = [place for place, one in enumerate(series) if len(one.bars) == length]
                group = [series[place] for place in places]
                values = forecast_arrays(
                    self.tokenizer,
                    self.model,
                    np.stack([one.bars for one in group]),
                    np.stack([one.stamps for one in group]),
                    np.stack([one.future_stamps for one in group]),
                    horizon=horizon,
                    max_context=self.max_context,
                    clip=self.clip,
                    seed=seed,
                    keys_N=np.array(places),
                    conditions_NLC=None if self.model.conditions is None else _stacked(group),
                    fine_rotary=self.fine_rotary,
                    sliding=self.sliding,
                    dtype=self.dtype,
                    compiled=self.compiled,
                    progress=_advance(shown, len(done)),
                    **rules,
                )
                for place, one, path in zip(places, group, values, strict=True):
                    paths = Paths(path, one.future, self.tokenizer.columns)
                    done[place] = paths.repaired()[0] if repair else paths
        return [done[place] for place in range(len(series))]


def _stacked(group: list[Series]) -> np.ndarray:
    return np.stack([one.conditions for one in group if one.conditions is not None])


def _advance(shown: Any, before: int) -> Callable[[int, int], None] | None:
    return None if shown is None else lambda done, _: shown.update(before + done - shown.n)


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None and generator is not None:
        raise UserError("seed and generator were both given: give one of them")
    if generator is not None:
        return int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return secrets.randbits(62) if seed is None else seed

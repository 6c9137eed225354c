"""Texts of other packages that stand in reports, as messages: names of baselines, reasons, warnings, notes.

They are made in English where their content is known, also by stages that ran long before a report is written, and
are recognised by these forms. Placeholders: `%(n_...)s` is a number, `%(plural)s` the s of a plural or nothing, any
other any text. A test finds each form among the texts of the code, so that a change there is noticed.
"""

PERIODS = (
    "too short to tell (%(counted)s)",
    "%(n_days)s day%(plural)s",
    "%(n_periods)s independent %(n_horizon)s-day period%(plural)s",
)
BASELINES = (
    "momentum of %(n_days)s days",
    "reversal of %(n_days)s day%(plural)s",
    "distance of the close from its mean over %(n_days)s days",
    "linear regression on the last %(n_returns)s returns",
    "LightGBM on Qlib's Alpha158 features",
    "random, mean of %(n_seeds)s seeds",
    "model before fine-tuning",
    "model before training (random weights)",
    "not compared: %(why)s",
    "not compared: tokenizer and predictor before training do not fit each other (%(error)s)",
    "the %(kind)s's weights have no record of what they were trained from",
    "the weights that the %(kind)s was trained from cannot be loaded (%(error)s)",
    "the weights at %(place)s are not those that the %(kind)s was trained from",
    "an ensemble is not compared with the weights before training",
    "the same as the model that was evaluated, which was not fine-tuned",
    "no day of the backtest is followed by a full horizon",
    "forecast on every %(n_spacing)sth day",
    "forecast on every day",
    "the equal weight before its costs",
    "the equal weight after its own costs",
    "the equal weight of each day's members, rebalanced daily%(note)s",
    " (the index %(index)s is not among the bars)",
    "closes of %(file)s",
    "the benchmark",
)
# Keys of the baselines in metrics and in a walk-forward's table.
KEYS = ("momentum", "reversal", "mean_distance", "linear", "lightgbm", "random", "before")
OVER_TIME = (
    "last price",
    "drift of %(n_bars)s bars",
    "seasonal naive of %(n_bars)s bars",
    "historical volatility of %(n_bars)s bars",
    "EWMA volatility, decay 0.94",
    "no GARCH(1, 1): the package arch is not installed (pip install 'kronos-pipeline[garch]')",
)
SETTINGS = (
    "%(n_paths)s sample paths at temperature %(n_temperature)s, top-p %(n_top_p)s, top-k %(top_k)s",
    "off",
    "temperature 1, top-p 1",
    "trading settings",
    "open",
    "close",
    "tokenizer",
    "predictor",
    "raw",
    "calibrated",
    "not yet",
)
EXCLUDED = (
    "no bar",
    "no bar, filled",
    "not a member",
    "left out by backtest_max_instruments",
    "fewer than %(n_bars)s bars in a row",
    "the next %(n_bars)s bars leave the day",
)
CALIBRATION = (
    "no calibration of the bands: %(reason)s",
    "run  python -m kronos calibrate",
    "there is none: %(command)s",
    "the one at %(path)s is of other weights: %(command)s",
    "the one at %(path)s is of another %(setting)s: %(command)s",
    "the one at %(path)s is of bars of %(length)s: %(command)s",
    "the one at %(path)s was fitted on days up to %(last)s, and %(day)s is tested: %(command)s  on earlier days",
    "the validation range has %(n_there)s forecasts with a realised horizon, %(n_least)s are needed",
    "the bands are calibrated on bars of other instruments",
)
WARNINGS = (
    "the %(kind)s was %(word)s on days after the backtest (%(first)s to %(last)s).",
    "the %(kind)s was %(word)s on days of the backtest: %(begin)s to %(end)s lie within %(first)s to %(last)s.",
    "trained",
    "chosen by validation",
    "the %(kind)s comes from %(name)s: the days that it was trained on are not known.",
    "the %(kind)s comes from weights (%(name)s) that have or may have seen the days of the backtest up to %(until)s: "
    "only later days are clean.",
    "the %(kind)s is from %(address)s: the days that it was trained on are not known.",
    "the %(kind)s from %(address)s was trained or chosen on days up to %(until)s.",
    "the benchmark %(name)s is taken to be an index of prices without dividends, while the prices of the bars are "
    "adjusted for them: the excess return over it is too high by the dividend yield, 2 to 3 %% a year in many markets"
    ". Compare with the equal weight, or give a total return index.",
)
BARS = (
    "%(n_count)s instruments of %(source)s",
    "%(n_count)s instruments",
    "%(name)s: %(n_count)s instruments that were members at some time, each scored only on its days of membership",
    "%(name)s: its %(n_count)s members of today",
    "S&P 500 members at some time between 2009-08-21 and 2010-08-20",
    "The universe is the shares that were S&P 500 members at some time of that year, not the members of each day: "
    "survivorship bias remains, and returns measured on it prove nothing about a strategy.",
    "These are the files that were given: nothing says whether instruments that left the market are among them. If "
    "they are not, survivorship bias remains, and returns measured on these bars are too good.",
    "The symbols were chosen by name: those that left the market before are missing unless they were named, so that "
    "survivorship bias remains, and returns measured on these bars are too good.",
    "Membership is point in time, as %(store)s/instruments/%(name)s.txt states it: the bars are free of survivorship "
    "bias as far as that file and the folder are complete.",
    "Membership is point in time, as the file of symbols states it: the bars are free of survivorship bias as far as "
    "that file is complete and the source has those that left the market.",
    "Bars of %(length)s: a day or session of this report is one bar, an annual figure is per year.",
)
CHARTS = ("asked for", "best", "typical", "worst", "latest", "another day")
MODELS = (
    "trained",
    "before training (random weights)",
    "before fine-tuning",
    "the weights before training: %(why)s.",
    "random walk",
    "bootstrap of the window",
    "mean of the window",
    "No synthetic bars: the range has too few contexts that %(n_bars)s bars follow.",
    "prices",
    "returns",
    "volatility",
    "synthetic bars",
    "portfolio",
    "told apart",
    "trained on, IC",
    "trained on, Rank IC",
    "excess return per year",
    "information ratio",
    "excess kurtosis of moves",
    "moves beyond %(n_deviations)s deviations",
    "autocorrelation of moves, lag 1",
    "autocorrelation of absolute moves, lags 1 to %(n_lags)s",
    "correlation of a move with the size of the next",
    "high minus low over absolute move of the close",
)
FOLDS = (
    "fold %(n_place)s",
    "%(n_first)s to %(n_last)s",
)
AUDIT = (
    "bars",
    "forecasts",
    "true",
    "mean",
    "above 0",
    "below 0",
    "excludes 0",
    "truth inside",
    "as stored",
    "shuffled",
    "reversed",
    "mirrored",
    "momentum of others",
)
HEADS = (
    "root mean squared error",
    "squared error",
    "no move",
    "mean of the training range",
    "accuracy",
    "Brier score",
    "log loss",
    "base rate of the training range",
    "persistence of the last move",
    "R2 of log volatility",
    "squared error of log volatility",
    "volatility of the last bars",
    "HAR model of log volatility",
    "the head was trained or chosen on days up to %(until)s: only later days are clean.",
)
PHRASES = tuple(
    dict.fromkeys((
        *PERIODS, *BASELINES, *KEYS, *OVER_TIME, *SETTINGS, *EXCLUDED, *CALIBRATION, *WARNINGS, *BARS, *CHARTS,
        *MODELS, *FOLDS, *AUDIT, *HEADS,
    ))
)  # fmt: skip

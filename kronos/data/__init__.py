"""Bars, stores and windows.

`sources` read bars and build a store: `cleaning`, `adjustment` and `calendars` prepare the bars, `store_writer`
writes them. `splits`, `forecast_points` and `windows` read the `store`.
"""

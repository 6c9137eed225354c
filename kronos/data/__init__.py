"""Bars, stores and windows: `bars` -> `adjust` -> `store` -> `ranges`, `points` -> `windows`; `sources` builds a store."""

"""Bars, stores and windows.

`sources` builds a store (`bars` cleans and aligns, `adjust` undoes splits, `store` writes); `ranges`, `points` and
`windows` read it.
"""

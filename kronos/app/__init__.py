"""The page of one's own, `python -m kronos app`: forms and charts over the package's own functions and commands.

It keeps nothing of its own: bars and models are those of the commands, trainings are runs like any other, and what
is made for looking at lies in a temporary folder that is removed at the end.
"""

"""Screens: pure functions from values to lines of text, 80 columns of ASCII, worst first.

Nothing here may read a clock, an environment or a terminal, and evidence is never markup.
"""

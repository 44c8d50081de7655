"""Pure placement: which units of which nodes qualify, and which of them a request gets.

The same input gives the same output and ties break by id. It must never read a clock,
draw a random number or import the state package.
"""

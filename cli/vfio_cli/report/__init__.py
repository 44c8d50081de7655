"""One host as one HTML page: findings, devices, and the PCI tree drawn as a picture.

The way of the data: `forest` (who hangs below whom) -> `layout` (where each box goes) -> `outlines`
(what surrounds each group) -> `drawing` (boxes with their words) -> `view` (all values of the page)
-> `page` (HTML). All of it is pure but for the template, which is package data. It must never judge
or guess: what is not known is drawn as not known.
"""

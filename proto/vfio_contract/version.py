"""The version of this program, for artifacts and `--version`.

A constant, because asking the installed package's metadata costs a tenth of a local check's time
and a source tree has none. It must always be the version in pyproject.toml (tested).
"""

VERSION = "0.1.0"

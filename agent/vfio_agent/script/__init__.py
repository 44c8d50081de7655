"""The shell script that gathers a host's evidence where nothing is installed (`gather.sh`).

It reads what `vfio_agent.collect` reads, by the same rules, and writes one tar that `open_root`
takes for a capture of our own. `tests/unit/test_gather_script.py` puts every question of a
collection to what it gathered, so that it cannot fall behind unseen.
"""

from importlib.resources import files


def load_script() -> str:
    """The script's text, from inside a zip too."""
    return (files(__name__) / "gather.sh").read_text("ascii")

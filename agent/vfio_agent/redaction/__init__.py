"""Evidence that may be shown: a snapshot without the names and serials of its owner.

Decision on comparability: pseudonyms are keyed hashes (HMAC-SHA256) under a random key of 32 bytes
that is made for each file and kept nowhere. Inside one file the same value has the same pseudonym,
so that grouping and the verdicts are unchanged; nobody, its author included, can go back from a
pseudonym, and two files of the same host have nothing in common. Who wants to compare redacted
files names a key file for all of them (`--redact-key`): then their pseudonyms are the same, and who
has that key can test guesses. `Readings.redacted` carries the key's fingerprint, so that a
comparison can tell whether two files speak the same names.
"""

from vfio_agent.redaction.masks import Masks
from vfio_agent.redaction.snapshot import redact_snapshot

__all__ = ["Masks", "redact_snapshot"]

"""Evidence that people paste: command output of any origin in, one Snapshot out.

`gather` reads files, directories, archives and standard input, recognises each by its content and
never by its name, and merges everything into one `Snapshot`. What nobody gave stays None and leaves
a gap that names the command to run. This package must never take the end of a paste for the end of
a list, nor let two contradicting texts decide anything.
"""

from vfio_agent.pasted.evidence import Given, gather
from vfio_agent.pasted.remedies import reword_report
from vfio_agent.pasted.source import EvidenceError

__all__ = ["EvidenceError", "Given", "gather", "reword_report"]

"""Where the ACS override of this boot shows, and when its absence is proved.

What isolation rests on is the contract's (`vfio_contract.isolation`), the same for checks and
drift. This module must never take a log that is not complete for the proof of an absence.
"""

from vfio_agent.checks import kernel_log as log
from vfio_contract.findings import Evidence
from vfio_contract.host import Host
from vfio_contract.isolation import OVERRIDE


def find_override(host: Host) -> Evidence | None:
    """Where this boot's ACS override shows."""
    found = log.find_parameter(host, OVERRIDE)
    return found[0] if found is not None else log.find_line(host, log.ACS_OVERRIDE)


def is_override_known(host: Host) -> bool:
    """True when the absence of the override is proved: by the command line or a complete log."""
    return log.read_cmdline(host) is not None or log.is_complete(host)

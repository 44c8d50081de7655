"""Diagnosis: from a symptom or a message to its cause, the decision, and the check that proves it.

`recognise` reads any text for known messages; `walk` goes through a report in the field guide's
order for one symptom and stops at the root cause. Knowledge and pure functions only: nothing here
may read a file, a clock or the network, and nothing that is unknown may be passed over.
"""

from __future__ import annotations

from vfio_agent.diagnosis.catalogue import MESSAGES, find_message
from vfio_agent.diagnosis.digging import Look, Walk, walk
from vfio_agent.diagnosis.message import ANY, Cause, Kind, Message
from vfio_agent.diagnosis.recognition import Reading, Seen, Sighting, recognise
from vfio_agent.diagnosis.subjects import (
    DISPLAY,
    subjects_of_device,
    subjects_of_displays,
    subjects_of_vm,
)
from vfio_agent.diagnosis.symptoms import (
    SYMPTOMS,
    Step,
    Symptom,
    find_symptom,
    symptom_for,
    symptom_of,
)

__all__ = [
    "ANY",
    "DISPLAY",
    "MESSAGES",
    "SYMPTOMS",
    "Cause",
    "Kind",
    "Look",
    "Message",
    "Reading",
    "Seen",
    "Sighting",
    "Step",
    "Symptom",
    "Walk",
    "find_message",
    "find_symptom",
    "recognise",
    "subjects_of_device",
    "subjects_of_displays",
    "subjects_of_vm",
    "symptom_for",
    "symptom_of",
    "walk",
]

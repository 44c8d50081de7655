"""What waits for an agent that does not read is bounded, in order, and ends once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.fakes.orders import ORDER
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.session_port import SessionPort, Word
from vfio_coordinator.state.effects import AcceptSession, Acknowledge, SendCommand, WantInventory

WELCOME = AcceptSession("pve01", 1, inventory_held=False)
REPLACED = ClusterError(ErrorCode.SESSION_REPLACED, "session 2 took over")


def acknowledge(sequence: int) -> Acknowledge:
    return Acknowledge("pve01", 1, sequence)


async def heard(port: SessionPort) -> list[Word]:
    """Everything until a peaceful end."""
    words = []
    while (word := await port.next_word()) is not None:
        words.append(word)
    return words


async def test_words_come_in_the_order_they_were_said() -> None:
    port = SessionPort(1, "pve01")
    wanted = WantInventory("pve01", 1, "sha256:1")
    for word in (WELCOME, wanted, acknowledge(1)):
        port.tell(word)
    port.end()
    assert await heard(port) == [WELCOME, wanted, acknowledge(1)]


async def test_an_agent_that_does_not_read_is_told_the_newest_only() -> None:
    port = SessionPort(1, "pve01")
    port.tell(WELCOME)
    for number in range(10_000):
        port.tell(acknowledge(number))
        port.tell(WantInventory("pve01", 1, f"sha256:{number}"))
    port.end()
    assert await heard(port) == [
        WELCOME,
        acknowledge(9_999),
        WantInventory("pve01", 1, "sha256:9999"),
    ]


async def test_commands_wait_each_for_itself_and_once() -> None:
    port = SessionPort(1, "pve01")
    for id in ("a", "b", "a"):
        port.tell(SendCommand("pve01", 1, replace(ORDER, id=id)))
    port.end()
    words = await heard(port)
    assert [word.command.id for word in words if isinstance(word, SendCommand)] == ["b", "a"]


async def test_the_first_end_counts_and_comes_last() -> None:
    port = SessionPort(1, "pve01")
    port.end(REPLACED)
    port.end()
    port.tell(WELCOME)
    assert await port.next_word() == WELCOME
    for _ in range(2):
        with pytest.raises(ClusterError) as caught:
            await port.next_word()
        assert caught.value is REPLACED


async def test_a_waiting_reader_wakes_for_a_word_and_for_the_end() -> None:
    port = SessionPort(1, "pve01")
    reader = asyncio.create_task(heard(port))
    await asyncio.sleep(0)
    port.tell(acknowledge(1))
    await asyncio.sleep(0)
    port.tell(acknowledge(2))
    port.end()
    async with asyncio.timeout(30):
        assert await reader == [acknowledge(1), acknowledge(2)]

"""What would happen with a BIOS or kernel. Part of `ClusterServicer`.

The question is answered in a thread of its own, on the state as it was when it came: with ten
thousand nodes it takes longer than the event loop may stand still.
"""

from __future__ import annotations

import asyncio

from vfio_contract.codec import to_message
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame, printable
from vfio_coordinator.peer import Role
from vfio_coordinator.state.forecast import Question, forecast
from vfioctl.v1 import cluster_pb2 as wire

MAX_TEXT = 200
"""Characters of a version or a selector; DMI strings and node names are far shorter."""


class Forecasts(Frame):
    """See the module."""

    @answering
    async def GetForecast(
        self, request: wire.GetForecastRequest, context: Context
    ) -> wire.GetForecastResponse:
        """What is known of the versions, and whom they concern."""
        self.require(context, Role.VIEWER)
        question = Question(
            bios=printable(request.bios, "bios", MAX_TEXT).strip(),
            kernel=printable(request.kernel, "kernel", MAX_TEXT).strip(),
            nodes=tuple(printable(text, "nodes", MAX_TEXT) for text in request.nodes),
        )
        view = await asyncio.to_thread(forecast, self.runtime.state, question, self.clock.now())
        return wire.GetForecastResponse(forecast=to_message(view))

"""The cluster's state as a pure reducer: state, event and time in; state and effects out.

It must never do input or output or read a clock; the runtime performs the effects.

Read in this order: `model` (the state and its invariants), `events`, `effects`, `reducer`; then the
handlers `sessions`, `evidence`, `admin`, `claims`, `baseline`, `outcomes`, `restore`; what they
think with: `presence`, `judge`, `drift`; and what people see: `report`, `health`, `explain`.
"""

from vfio_coordinator.state.reducer import apply

__all__ = ["apply"]

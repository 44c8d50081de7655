"""The agent's side of the bidirectional stream to the coordinator.

It carries snapshots, findings and events and reconnects with full jitter. It must never
judge evidence, nor lose an event that was spooled.
"""

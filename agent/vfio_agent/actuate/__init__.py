"""The agent's hands: bind, unbind and reset-test, planned purely and carried out step by step.

plan and guard decide from a snapshot; `hands` is the only module that writes to the host, and
`vfio` the only one that makes a VFIO ioctl. Nothing here may act without a guard's consent on
evidence read just before, nor without an intent that is durable before its effect.
"""

"""The `vfioctl` command: arguments in, screens and exit codes out.

It may use the agent's local entry points, so that `vfioctl check` needs no server. It must
never import the coordinator, nor show unknown as healthy.
"""

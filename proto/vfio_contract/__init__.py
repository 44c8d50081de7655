"""What agent, coordinator and command line agree on: model, findings, errors and codec.

Values are frozen; `None` means "not known". It must never import the agent, the
coordinator or the command line, and only `codec` may touch the wire messages.
"""

"""The commands, one module a group: arguments in, one screen or document out, an exit code back."""

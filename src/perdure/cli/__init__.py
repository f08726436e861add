"""The `perdure` command: each module one group of commands, each command a few lines over a use case."""

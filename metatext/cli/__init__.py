"""The command line: one dataclass per command, whose fields are the options and whose docstrings are the --help."""

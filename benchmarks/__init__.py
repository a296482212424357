"""Speed, memory and error of the losses next to their peers: ``python -m benchmarks --help``."""


class CannotRun(Exception):
    """A command that cannot do what was asked for; its text is the one line its user sees."""

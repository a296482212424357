"""The step size over a run: a factor on that of Adam."""

__all__ = ["DROP", "DROP_AT", "StepSize"]

DROP = 0.2
DROP_AT = 0.6


class StepSize:
    """1 at the start of each stage, a fifth in the last 40 % of its steps.

    An object and not a closure: torch keeps what it holds in the checkpoint, so a resumed run goes
    on with the drops that it was planned with, even where more epochs are asked for.

    Args:
        ends: the step at which each stage ends; the last one may be infinite.

    >>> factor = StepSize([10, 30])
    >>> [factor(step) for step in (0, 5, 6, 10, 21, 22, 40)]
    [1.0, 1.0, 0.2, 1.0, 1.0, 0.2, 0.2]
    """

    def __init__(self, ends):
        self.stages = list(zip([0, *ends[:-1]], ends, strict=True))

    def __call__(self, step):
        """The factor for a step, counted from 0."""
        start, end = next((s for s in self.stages if step < s[1]), self.stages[-1])
        return DROP if step >= start + DROP_AT * (end - start) else 1.0

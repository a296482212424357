"""What a comparison is made of: shapes, providers, a float64 reference, cost formulas, goals.

A family holds everything about one op, so a new op is one file like ``sliced.py`` and one entry in
``cases.FAMILIES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, randn_like

# Inputs whose gradient is taken. Training a model wants the first: y is a constant target.
MODES = {"forward": (), "forward_backward": ("x",), "forward_backward_both": ("x", "y")}


@dataclass(frozen=True)
class Shape:
    """B problems of N points x and M points y (N if not given) in D dimensions, L directions.

    N is None where the inputs are no points.
    """

    B: int
    N: int | None
    D: int
    L: int | None
    reason: str
    M: int | None = None

    @property
    def name(self):
        """The sizes in one word, such as B1-N1024-D64-L128."""
        sizes = {"B": self.B, "N": self.N, "M": self.M, "D": self.D, "L": self.L}
        return "-".join(f"{letter}{size}" for letter, size in sizes.items() if size is not None)


@dataclass(frozen=True)
class Provider:
    """One way to compute the op.

    Attributes:
        name: name in records.
        what: one line for readers.
        make: returns the function of the family's inputs, giving one value or matrix a problem;
            ImportError if its package is missing.
        ours: must run; a peer that cannot run is recorded as missing.
        per_shape: makes code for each shape on its first call.
        expect: the family's, if None; for a peer that computes something else from the same inputs.
        own_error: shape -> relative errors that its method adds to value and gradient, for a peer
            that is known to be less accurate; its bounds grow by them, and its errors are recorded.
        left_out: (set of shapes, shape) -> why it does not run there, or None where it does.
        yardstick: computes a part of the op, or something else to be set beside it; being faster is
            no surprise.
        uncapturable: why no capture in a CUDA graph is tried, for a library that launches or
            allocates past torch: one that fails would leave its traces in torch's allocator.
    """

    name: str
    what: str
    make: Callable[[], Callable]
    ours: bool = False
    per_shape: bool = False
    expect: Callable[..., "Expected"] | None = None
    own_error: Callable[[Shape], tuple[float, float]] = lambda shape: (0.0, 0.0)
    left_out: Callable[[str, Shape], str | None] = lambda shapes, shape: None
    yardstick: bool = False
    uncapturable: str | None = None


@dataclass(frozen=True)
class Expected:
    """Values and gradients in float64, and what rounding alone may change.

    Attributes:
        value: value of each problem.
        grads: gradients with respect to the clouds.
        slack: for each gradient, how far each of its entries may move because rounded inputs leave
            a discrete choice open (such as the order of two nearly equal numbers).
        terms_value: additions chained behind one value, for the bound of ``measure.check``.
        terms_grad: the same for one entry of a gradient.
        condition_value: how much larger the sums are whose small difference a value is.
        condition_grad: the same for the gradients.
    """

    value: Tensor
    grads: tuple[Tensor, ...]
    slack: tuple[Tensor, ...]
    terms_value: int
    terms_grad: int
    condition_value: float = 1.0
    condition_grad: float = 1.0


@dataclass(frozen=True)
class Goal:
    """A target for one shape, forward and gradient.

    Attributes:
        device: "cpu" or "cuda".
        shape: name of a shape.
        clock: the clock it is read from (``clocks.py``).
        quantity: "speedup" (peer's median over ours, at least), "cost" (our median over the
            peer's, at most), "ms" (our median, at most) or "memory" (our peak over the peer's, at
            most).
        target: the number to reach.
        against: name of the peer; None for "ms".
        why: why it is missed, in a few words; read only where it is.
    """

    device: str
    shape: str
    clock: str
    quantity: str
    target: float
    against: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Family:
    """One op with all that is needed to compare it.

    Attributes:
        op: public name in otkernels and, after a dash, what is special about the inputs.
        p: exponent, if the op has one.
        shapes: shapes for "cpu", "cuda" and "smoke".
        providers: who computes it, otkernels first.
        inputs: shape -> (clouds..., directions, other constants...) on the CPU.
        expect: inputs -> Expected.
        bytes: (shape, number of gradients, bytes an element) -> bytes that must be moved at least:
            inputs read once, gradients written once.
        flops: (shape, number of gradients) -> floating-point operations of the matrix products.
        exponentials: the same -> exponentials, at least.
        comparisons: the same -> comparisons of two numbers, at least.
        size: shape -> the number that figures draw time against.
        size_label: what that number is.
        goals: the speed goals.
        clouds: names of the first inputs, whose gradients are taken.
        noise: cloud -> what may be added to it to have another one, for a graph to be replayed on.
        note: a line for readers of the tables.
    """

    op: str
    p: float | None
    shapes: dict[str, tuple[Shape, ...]]
    providers: tuple[Provider, ...]
    inputs: Callable[[Shape], tuple[Tensor, ...]]
    expect: Callable[..., Expected]
    bytes: Callable[[Shape, int, int], int]
    flops: Callable[[Shape, int], int]
    size: Callable[[Shape], int]
    size_label: str
    goals: tuple[Goal, ...] = ()
    clouds: tuple[str, ...] = ("x", "y")
    noise: Callable[[Tensor], Tensor] = randn_like
    note: str = ""
    exponentials: Callable[[Shape, int], float] = lambda shape, n_grads: 0
    comparisons: Callable[[Shape, int], float] = lambda shape, n_grads: 0

    @property
    def modes(self):
        """The modes that there are for these clouds."""
        return [mode for mode, names in MODES.items() if set(names) <= set(self.clouds)]


@dataclass(frozen=True)
class Case:
    """A family at one shape in one mode."""

    family: Family
    shape: Shape
    mode: str

    @property
    def name(self):
        """What ``--cases`` searches, such as sliced_wasserstein/B1-N1024-D64-L128/forward."""
        return f"{self.family.op}/{self.shape.name}/{self.mode}"

"""A choice of the launchers, other values for it, and the calls that show what these do."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from .. import measure
from ..case import Case, Shape


@dataclass(frozen=True)
class Name:
    """A function or constant of the launchers.

    Attributes:
        attribute: what it is called.
        modules: every module that holds it; the first defines it.
        at: the arguments for which a function shall give another value; None for a constant.
    """

    attribute: str
    modules: tuple[ModuleType, ...]
    at: tuple | None = None

    @property
    def present(self):
        """What the launchers choose."""
        found = getattr(self.modules[0], self.attribute)
        return found if self.at is None else found(*self.at)

    def patches(self, value):
        """Context managers within which it is ``value``; a function keeps its other values."""
        chosen = getattr(self.modules[0], self.attribute)

        def other(*arguments):
            return value if arguments == self.at else chosen(*arguments)

        new = value if self.at is None else other
        return [mock.patch.object(module, self.attribute, new) for module in self.modules]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Values for the names of a table."""

    label: str
    values: tuple
    chosen: bool


@dataclass(frozen=True)
class Smoke:
    """A tiny case of a table and one value of each name that differs there.

    Attributes:
        case: the case.
        value: the other candidate.
        given: (name, value) that hold for both candidates, to take the way of large problems.
    """

    case: Case
    value: tuple
    given: tuple[tuple[Name, Any], ...] = ()


@dataclass(frozen=True)
class Table:
    """One decision of the launchers, with all that is needed to tune it.

    Attributes:
        name: what the decision is.
        names: shape -> the functions and constants that it consists of.
        values: shape -> other values, one for each name.
        cases: where it matters.
        smoke: where it can be tried without a GPU.
    """

    name: str
    names: Callable[[Shape], tuple[Name, ...]]
    values: Callable[[Shape], Sequence[tuple]]
    cases: tuple[Case, ...]
    smoke: Smoke


@dataclass(frozen=True)
class Choice:
    """A table at one of its cases; what is tuned, recorded and continued as a whole."""

    table: Table
    case: Case
    smoke: bool = False

    @property
    def name(self):
        """What ``--only`` searches."""
        return f"{self.table.name} {self.case.name}"

    def candidates(self):
        """The launchers' own values first, then others; nothing twice."""
        names, shape = self.table.names(self.case.shape), self.case.shape
        present = tuple(name.present for name in names)
        found = [present]
        for values in [self.table.smoke.value] if self.smoke else self.table.values(shape):
            if values not in found:
                found.append(values)
        return [Candidate(_label(names, values), values, values is present) for values in found]

    def patches(self, candidate):
        """Context managers within which the launchers choose as the candidate says."""
        given = self.table.smoke.given if self.smoke else ()
        pairs = [*given, *zip(self.table.names(self.case.shape), candidate.values, strict=True)]
        return [patch for name, value in pairs for patch in name.patches(value)]


def _label(names, values):
    return ", ".join(f"{n.attribute} = {v}" for n, v in zip(names, values, strict=True))


def choices(tables, smoke=False):
    """All choices, in the order of the tables."""
    if smoke:
        return [Choice(table, table.smoke.case, True) for table in tables]
    return [Choice(table, case) for table in tables for case in table.cases]


class Call(measure.Call):
    """A call during which the launchers choose as a candidate says."""

    def __init__(self, choice, candidate, function, inputs):
        case = choice.case
        super().__init__(function, inputs, case.mode, case.family.clouds)
        self.choice, self.candidate = choice, candidate

    def __call__(self):
        """Value of each problem; gradients land in ``leaves``."""
        with contextlib.ExitStack() as stack:
            for patch in self.choice.patches(self.candidate):
                stack.enter_context(patch)
            return super().__call__()

"""Links the distributions that a requirement list needs into another environment, from this one.

    python .ci/link_core.py SITE_PACKAGES torch numpy triton

What is linked is the closure of the requirements over the metadata installed here, without extras.
That environment then sees these distributions and no others, as if they had been installed there.
"""

import importlib.metadata
import pathlib
import sys

from packaging.requirements import Requirement


def closure(names):
    """The distributions that are needed for ``names``, themselves included."""
    found, open_ = {}, list(names)
    while open_:
        distribution = importlib.metadata.distribution(open_.pop())
        if found.setdefault(distribution.name, distribution) is distribution:
            needed = map(Requirement, distribution.requires or ())
            open_ += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found.values()


def link(distribution, site_packages):
    """Link the top level files and folders of a distribution."""
    here = pathlib.Path(distribution.locate_file(""))
    for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(here / top)


if __name__ == "__main__":
    site_packages = pathlib.Path(sys.argv[1])
    for distribution in closure(sys.argv[2:]):
        link(distribution, site_packages)

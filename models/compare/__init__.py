"""``python -m models compare``: every system and baseline under one budget, on one page."""

__all__ = ["main"]


def main(argv):
    """Run the command; its modules are imported now, and not before by everything beside them."""
    from .command import main

    main(argv)

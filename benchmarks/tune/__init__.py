"""Other choices of the launchers, timed."""

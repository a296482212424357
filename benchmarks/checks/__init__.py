"""Checks of a device that are no measurement."""

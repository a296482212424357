"""Numerics of this installation against independent float64 formulas and other libraries.

Run it as ``python -m otkernels.verify``; docs/verification.md says how to read the table.
"""

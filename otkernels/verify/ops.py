"""What is verified: a table of ops, the cases of each, and the peer library that has it too.

A new op is one entry in OPS: how to call ours, what is true of it, its cases and settings, how they
are drawn, and its peer or None. An op that is judged by several truths has an entry for each.
"""

from . import gaussian_ops, gaussian_root_ops, kernel_ops, sliced_ops

__all__ = ["OPS"]

OPS = (*sliced_ops.OPS, *kernel_ops.OPS, *gaussian_ops.OPS, *gaussian_root_ops.OPS)

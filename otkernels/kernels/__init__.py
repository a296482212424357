"""Triton kernels and their launchers, one file per op; imported when first launched."""

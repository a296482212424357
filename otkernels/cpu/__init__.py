"""Fused loss-and-gradient implementations for the CPU, one file per op."""

"""Wasserstein autoencoders on Lightning, thin users of otkernels; run from a checkout.

``python -m models fit`` trains one and writes a page of pictures; see docs/models.md.
"""

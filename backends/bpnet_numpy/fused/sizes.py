"""Sizes that the bodies are made for, where those who choose a body must know them, too. Imports nothing of numba."""

TURNED = 256
"""The most steps of a small product's sum whose second factor is transposed: so much of it is kept turned."""

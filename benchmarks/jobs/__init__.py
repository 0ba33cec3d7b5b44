"""The whole job, from the start of the process to its end: each file here is a program as its library's users write it.

All read the same arrays from the same files (`x.npy`, `y.npy`, `test_x.npy`, `test_y.npy` in the folder that is their
first argument), train the network of `SIZES` with Adam and a new order every epoch, and print the share of the test
images that they get right. Nothing else is asked of them.
"""

from __future__ import annotations

SIZES = (784, 256, 128, 10)
BATCH = 128
LEARNING_RATE = 1e-3

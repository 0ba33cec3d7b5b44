"""Bodies that numba compiles. Importing a module of this package imports numba.

What they are written in:

    intrinsics.py  an instruction's words, arrays at addresses, C's memory, NumPy's BLAS
    simd.py        vectors as numbers, for bodies of several arrays in one pass
    functions.py   exponentials and what is made of them, of numbers and of vectors
    registers.py   LLVM's instructions for vectors, for the loops that are written by hand:
                   tiles.py (large products), direct.py (small ones), rows.py (those of one row), strips.py (those of
                   windows where they lie, and of states), quotients.py (Adam's)
    team.py        units of work that threads take: division.py (elementwise passes), fork.py (programs), matmul.py,
                   rows.py
    program.py     the way from Python

All other modules hold bodies, by what they compute. A body's module is listed in `compiler.py`.
"""

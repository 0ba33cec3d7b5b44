"""Bodies that numba compiles. Importing a module of this package imports numba."""

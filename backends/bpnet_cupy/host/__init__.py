"""kernels.cu compiled for the host and run there, to hold it without a GPU; only the tests import this."""

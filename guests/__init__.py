"""Guest kernels, the include files they share, and the Python that finds and assembles them."""

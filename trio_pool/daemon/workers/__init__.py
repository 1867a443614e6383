"""Several processes on the same addresses, and restarts by hand-over."""

"""Several processes as one: what is to be seen of them is put together, what is to be done is done in all.

The workers of a pooler do not know each other. Whoever looks or acts, a worker's console or the parent's web
server, has the parent ask every worker (`parent.py`), which answers from its own census (`worker.py`), in
slices, so that nobody's event loop is held up. What comes back is merged (`merging.py`) into what the census
of one process would have been (`sights.py`).

The counts of a worker that has died are kept by the parent as far as they were told to anybody, so that what
only grows never falls.
"""

"""Arrays in pickles, which are never unpickled.

`pickle.load` runs whatever the file says and holds all of it in memory. Here a `machine` reads the opcodes itself,
on symbols (`symbols`) that stand for objects. It knows the few names that pickles of arrays hold (`names`) and what
their calls make of symbols (`calls`); it imports and calls nothing. The array's bytes are not read but located, so
that a caller can stream them.
"""

from motorpool.case.arrays.pickles.machine import open_pickle, read_pickle_layout

__all__ = ["open_pickle", "read_pickle_layout"]

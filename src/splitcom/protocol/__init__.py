"""Messages, and the order in which they may follow; no I/O, no threads, no clocks."""

"""Where the body runs: an `Engine` owns its devices and precision; knows no messages, and not what clients claim."""

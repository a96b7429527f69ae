"""Where the body runs; knows no client's conversation."""

"""Who trains when, on what, and how adapters merge."""

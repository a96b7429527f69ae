"""What a run cost and how good it became: the ledger and the run folder."""

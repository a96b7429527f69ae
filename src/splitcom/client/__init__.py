"""What a client does: its conversation, and what it trains (front, ends, whole)."""

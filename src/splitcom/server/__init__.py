"""What the server does: conversations, arrivals, steps, rounds, evaluation."""

"""What client and server share: channels, plans, optimizer, loss, checkpoints."""

"""When to send: controllers that set the threshold of a flow from what a round has shown."""

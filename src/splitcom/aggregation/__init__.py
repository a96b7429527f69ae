"""How adapters become one; knows tensors, no conversations."""

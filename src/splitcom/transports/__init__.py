"""How bytes get from one party to another."""

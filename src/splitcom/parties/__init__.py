"""From a configuration to one party of a run: its texts, its parts, its sessions."""

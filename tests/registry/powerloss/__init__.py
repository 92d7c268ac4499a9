"""Power loss, simulated from a record of what was written and synced."""

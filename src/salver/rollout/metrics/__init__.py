"""What canary and primary are compared by: one file for each kind of metric."""

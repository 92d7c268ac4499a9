"""How many replicas an endpoint shall have, from what is asked of it. Pure; time is given."""

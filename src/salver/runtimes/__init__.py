"""What executes models: one file per runtime, behind two contracts."""

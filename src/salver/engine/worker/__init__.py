"""The process that hosts runtimes."""

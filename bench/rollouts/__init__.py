"""Simulated rollouts: how often a good canary is rolled back, and how soon a bad one."""

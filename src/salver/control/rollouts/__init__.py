"""Rollouts in control: gates before them, the loop that drives them, what people may say."""

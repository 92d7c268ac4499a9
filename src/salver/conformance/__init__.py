"""Checks any server of the Open Inference Protocol from outside, sentence by sentence."""

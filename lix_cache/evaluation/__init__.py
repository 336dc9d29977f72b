"""Proof of what a cache does: questions, evaluate, calibration, audit. Offline and online."""

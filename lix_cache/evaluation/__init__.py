"""Proof of what a cache does: questions, replay, calibration, audit. Offline and online."""

"""Crashes, torn writes, full disks and power cuts, on purpose and at a chosen step."""

"""Files, locks, whole-file replacement and parallel syncs: what every store on disk needs."""

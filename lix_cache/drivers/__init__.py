"""Who carries out what a flow asks for: one driver in the calling thread, one on an event loop."""

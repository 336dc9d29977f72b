"""May this answer that? Numbers and texts in, a decision with its reason out. Pure."""

"""A second opinion on whether a cached answer answers a query."""

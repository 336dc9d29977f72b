"""The suites of one server, on several: a cluster, and servers that Sentinel looks after."""

"""A model of this machine as a provider of the gateway: its conversations resume after a restart."""

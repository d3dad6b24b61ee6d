"""Where a network is trained: one device, all of a machine, several machines."""

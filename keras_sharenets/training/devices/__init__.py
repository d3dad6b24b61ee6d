"""Devices for training: one device, all devices of a machine, or several machines."""

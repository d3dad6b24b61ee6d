"""Spaces of networks: choices, rules and costs, one module a family."""

"""Compression of networks step by step, with fine-tuning after each step."""

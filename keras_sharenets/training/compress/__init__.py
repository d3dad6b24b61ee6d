"""Networks made smaller step by step, with fine-tuning after each."""

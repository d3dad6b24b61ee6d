"""Search for networks within a budget, with KerasTuner."""

"""Training of named networks: data, recipes, runs, devices, reports."""

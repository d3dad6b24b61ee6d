"""Tables, figures and pages, from data."""

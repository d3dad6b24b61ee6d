"""What finished runs say: accuracy, confusion, tables, figures."""

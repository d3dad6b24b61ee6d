"""Reports on finished runs: accuracy, confusion, tables and figures."""

"""A web page that runs a shipped file in the browser."""

"""A web page that runs an exported file in the browser."""

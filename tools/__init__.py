"""Programs for those who work on the library: they are in no wheel."""

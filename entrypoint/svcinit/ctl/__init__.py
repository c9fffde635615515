"""svcinitctl: a module for each command, `cli` for their common command line, `output` for standard output."""

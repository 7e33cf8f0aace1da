"""Commands: parse, build, call one function, write one thing."""

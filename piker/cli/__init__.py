"""The command line: what a person starts. Every command is one module of this room."""

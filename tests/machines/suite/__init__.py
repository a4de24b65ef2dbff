"""Machines that boot, update, lose power and go back: the parts of both forms of the suite."""

"""The exercises of the labs, one module a lab: each holds a tuple `EXERCISES`."""

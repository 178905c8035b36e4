"""Which address a pod gets, and whether the records of that agree with what is there."""

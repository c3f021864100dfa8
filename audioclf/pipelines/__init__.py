"""One module a job; the only place that imports Ray."""

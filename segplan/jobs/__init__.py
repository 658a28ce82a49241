"""One module a job: a resolved config in, files out. Nothing here knows Hydra."""

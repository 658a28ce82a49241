"""Under srun: Lightning learns its ranks from SLURM, and leaves SLURM's signals to segplan."""

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment


def slurm_plugins() -> list[SLURMEnvironment]:
    """Lightning's plugin, which it would find itself, without its own requeue: two that own a signal lose it."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []

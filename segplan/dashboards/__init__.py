"""Dashboards (TensorBoard, W&B, MLflow, any Lightning logger) behind a queue: a broken one costs a training nothing."""

from segplan.dashboards.guarded import GuardedLogger, leave_threads_behind
from segplan.dashboards.kinds import Dashboard, DashboardRun, mlflow, opener, tensorboard, wandb
from segplan.dashboards.patches import FixedPatch, fixed_patch
from segplan.dashboards.pictures import Pictures
from segplan.dashboards.usage import Usage

__all__ = [
    "Dashboard",
    "DashboardRun",
    "FixedPatch",
    "GuardedLogger",
    "Pictures",
    "Usage",
    "fixed_patch",
    "leave_threads_behind",
    "mlflow",
    "opener",
    "tensorboard",
    "wandb",
]

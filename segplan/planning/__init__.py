"""From a dataset's fingerprint to the plan of its training, and to the configuration files that hold it."""

from segplan.planning.emit import emit, is_edited
from segplan.planning.fingerprint import (
    CaseFingerprint,
    ChannelIntensities,
    Fingerprint,
    FingerprintAccumulator,
    combine,
    fingerprint_case,
)
from segplan.planning.fingerprint_file import fingerprint_from_json, read_fingerprint, write_fingerprint
from segplan.planning.patch import check_patch
from segplan.planning.plan import CONFIGURATIONS, SCHEMA_VERSION, ConfigurationPlan, DatasetPlan
from segplan.planning.planner import plan_dataset
from segplan.planning.settings import PRESETS, PlannerSettings
from segplan.planning.table import PlanRow, describe_dataset, plan_table

__all__ = [
    "CONFIGURATIONS",
    "PRESETS",
    "SCHEMA_VERSION",
    "CaseFingerprint",
    "ChannelIntensities",
    "ConfigurationPlan",
    "DatasetPlan",
    "Fingerprint",
    "FingerprintAccumulator",
    "PlanRow",
    "PlannerSettings",
    "check_patch",
    "combine",
    "describe_dataset",
    "emit",
    "fingerprint_case",
    "fingerprint_from_json",
    "is_edited",
    "plan_dataset",
    "plan_table",
    "read_fingerprint",
    "write_fingerprint",
]

"""From a dataset's fingerprint to the plan of its training, and to the configuration files that hold it."""

from segplan.planning.configured import Measure, Trial
from segplan.planning.emit import Emission, Kept, emit, emitted_configurations, is_edited
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
from segplan.planning.table import PlanRow, describe_images, plan_table

__all__ = [
    "CONFIGURATIONS",
    "PRESETS",
    "SCHEMA_VERSION",
    "CaseFingerprint",
    "ChannelIntensities",
    "ConfigurationPlan",
    "DatasetPlan",
    "Emission",
    "Fingerprint",
    "FingerprintAccumulator",
    "Kept",
    "Measure",
    "PlanRow",
    "PlannerSettings",
    "Trial",
    "check_patch",
    "combine",
    "describe_images",
    "emit",
    "emitted_configurations",
    "fingerprint_case",
    "fingerprint_from_json",
    "is_edited",
    "plan_dataset",
    "plan_table",
    "read_fingerprint",
    "write_fingerprint",
]

"""The label names of STU-Net's published weights, in the order of their outputs; the background comes first."""

from types import MappingProxyType

_SIDES = ("left", "right")
_PAIRED = (
    "adrenal_gland",
    "autochthon",
    "clavicula",
    "femur",
    "gluteus_maximus",
    "gluteus_medius",
    "gluteus_minimus",
    "heart_atrium",
    "heart_ventricle",
    "hip",
    "humerus",
    "iliac_artery",
    "iliac_vena",
    "iliopsoas",
    "kidney",
    "lung_lower_lobe",
    "lung_upper_lobe",
    "scapula",
)
_SINGLE = (
    "aorta",
    "brain",
    "colon",
    "duodenum",
    "esophagus",
    "face",
    "gallbladder",
    "heart_myocardium",
    "inferior_vena_cava",
    "liver",
    "lung_middle_lobe_right",
    "pancreas",
    "portal_vein_and_splenic_vein",
    "pulmonary_artery",
    "sacrum",
    "small_bowel",
    "spleen",
    "stomach",
    "trachea",
    "urinary_bladder",
)
_SPINE = (("C", 7), ("L", 5), ("T", 12))
_RIBS = tuple(f"rib_{side}_{number}" for side in _SIDES for number in range(1, 13))
_VERTEBRAE = tuple(f"vertebrae_{part}{number}" for part, last in _SPINE for number in range(1, last + 1))

# Alphabetical, so rib 10 before rib 2: not the order of TotalSegmentator's own tables.
TOTALSEGMENTATOR = (
    "background",
    *sorted((*(f"{name}_{side}" for name in _PAIRED for side in _SIDES), *_SINGLE, *_RIBS, *_VERTEBRAE)),
)
"""The 104 structures of TotalSegmentator's first dataset."""

ABDOMENATLAS = (
    "background",
    "aorta",
    "gallbladder",
    "inferior_vena_cava",
    "kidney_left",
    "liver",
    "pancreas",
    "kidney_right",
    "spleen",
    "stomach",
)
"""The 9 organs of AbdomenAtlasMini."""

LABELS = MappingProxyType({"totalsegmentator": TOTALSEGMENTATOR, "abdomenatlas": ABDOMENATLAS})

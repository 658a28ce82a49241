from pathlib import Path

from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[2] / "configs" / "augmentation"


def group(name: str) -> dict:
    """An augmentation group as a run sees it: with what it inherits, in order."""
    node = OmegaConf.load(CONFIGS / f"{name}.yaml")
    parents = [parent for parent in node.pop("defaults", []) if parent != "_self_"]
    merged = OmegaConf.merge(*(OmegaConf.create(group(parent)) for parent in parents), node)
    return OmegaConf.to_container(merged)

"""One case through segplan, with the time of each stage: a child process of `inference.py` and `long_volume.py`.

python segplan_predict.py MODEL OUTPUT.json LABELS.nii.gz PRECISION STEP_SIZE DEVICE IMAGE.nii.gz
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    model, report, target, precision, step_size, device, image = sys.argv[1:]
    start = time.perf_counter()
    from segplan.imaging import read_image, write_label_map
    from segplan.inference import Predictor
    from segplan.inference.precision import precision_name

    how = {"device": device, "precision": precision, "step_size": float(step_size), "mirror": False}
    predictor = Predictor.from_model(model, **how)
    stages = {"load": time.perf_counter() - start}
    start = time.perf_counter()
    source = read_image([Path(image)])
    geometry = source.geometry
    case = predictor.prepare(source)
    del source
    stages["read, preprocess"] = time.perf_counter() - start
    result = predictor.segment_case(case)
    stages["network"], stages["resample, decide"] = result.seconds["network"], result.seconds["export"]
    start = time.perf_counter()
    write_label_map(Path(target), result.labels, geometry)
    stages["write"] = time.perf_counter() - start
    about = {"stages": stages, "precision": precision_name(predictor.tiling.dtype), "notes": list(result.notes)}
    Path(report).write_text(json.dumps(about))


if __name__ == "__main__":
    main()

"""Labels for other tools: `motorpool export --to ...`. A module per format, an entry each in `FORMATS`."""

from __future__ import annotations

from collections.abc import Mapping

from motorpool.pipeline.handover.coco import COCO
from motorpool.pipeline.handover.csv_file import CSV
from motorpool.pipeline.handover.cvat import CVAT
from motorpool.pipeline.handover.embedding_atlas import EMBEDDING_ATLAS
from motorpool.pipeline.handover.fiftyone import FIFTYONE
from motorpool.pipeline.handover.format import Format
from motorpool.pipeline.handover.label_studio import LABEL_STUDIO

FORMATS: Mapping[str, Format] = {f.name: f for f in (CSV, LABEL_STUDIO, CVAT, COCO, FIFTYONE, EMBEDDING_ATLAS)}

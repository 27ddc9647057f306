"""Demo data: drawn scenes with articulated people, in the formats of mmpose, mmdet and mmseg.

``python tools/demo_data OUT_DIR`` writes

    img_dir/{train,val}/*.png                        pictures, shared by all three tasks
    ann_dir/{train,val}/*.png                        index masks (classes: meta.json); 255 = ignore
    annotations/person_keypoints_{train,val}.json    COCO keypoints, 17 joints
    annotations/instances_{train,val}.json           COCO instances, masks of the visible pixels
    meta.json                                        arguments, classes, palette, version

``file_name`` in the COCO files is relative to ``img_dir/<split>``. A person has the same annotation
id in both. Visibility of a joint: 0 outside the image (x = y = 0), 1 hidden by another thing or by
the person's own body, 2 visible. In the index masks the few pixels of things too small to be
annotated are 255. Same arguments, same bytes.
"""

from .dataset import write_demo_data

__all__ = ['write_demo_data']

"""Demo data: drawn scenes with articulated people, in the formats of all hosts.

``python tools/demo_data OUT_DIR`` writes

    img_dir/{train,val}/*.png                        pictures, shared by all tasks
    ann_dir/{train,val}/*.png                        index masks (classes: meta.json); 255 = ignore
    annotations/person_keypoints_{train,val}.json    COCO keypoints, 17 joints
    annotations/instances_{train,val}.json           COCO instances, masks of the visible pixels
    crops/{train,val}/CLASS/*.png                    boxes of instances, with a margin
    meta.json                                        arguments, classes, version

A person has the same annotation id in both COCO files. Visibility of a joint: 0 outside the image
(x = y = 0), 1 hidden by another thing or by the person's own body, 2 visible. Things with fewer
than 48 visible pixels are ignored. Same arguments, same bytes.
"""

from .dataset import write_demo_data

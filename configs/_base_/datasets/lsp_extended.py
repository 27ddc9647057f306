"""Leeds Sports Pose Extended: the 14 joints that mmpose has no dataset for.

Johnson and Everingham, "Learning Effective Human Pose Estimation from Inaccurate Annotation",
CVPR 2011. A config names this file as ``metainfo=dict(from_file=...)``; inline, it would be
formatted again for every log and checkpoint, which takes seconds.
"""

dataset_info = dict(
    dataset_name='lsp_extended',
    keypoint_info={
        0: dict(name='right_ankle', type='lower', swap='left_ankle', color=[255, 128, 0]),
        1: dict(name='right_knee', type='lower', swap='left_knee', color=[255, 128, 0]),
        2: dict(name='right_hip', type='lower', swap='left_hip', color=[255, 128, 0]),
        3: dict(name='left_hip', type='lower', swap='right_hip', color=[0, 255, 0]),
        4: dict(name='left_knee', type='lower', swap='right_knee', color=[0, 255, 0]),
        5: dict(name='left_ankle', type='lower', swap='right_ankle', color=[0, 255, 0]),
        6: dict(name='right_wrist', type='upper', swap='left_wrist', color=[255, 128, 0]),
        7: dict(name='right_elbow', type='upper', swap='left_elbow', color=[255, 128, 0]),
        8: dict(name='right_shoulder', type='upper', swap='left_shoulder', color=[255, 128, 0]),
        9: dict(name='left_shoulder', type='upper', swap='right_shoulder', color=[0, 255, 0]),
        10: dict(name='left_elbow', type='upper', swap='right_elbow', color=[0, 255, 0]),
        11: dict(name='left_wrist', type='upper', swap='right_wrist', color=[0, 255, 0]),
        12: dict(name='neck', type='upper', swap='', color=[51, 153, 255]),
        13: dict(name='head_top', type='upper', swap='', color=[51, 153, 255]),
    },
    skeleton_info={
        0: dict(link=('right_ankle', 'right_knee'), color=[255, 128, 0]),
        1: dict(link=('right_knee', 'right_hip'), color=[255, 128, 0]),
        2: dict(link=('right_hip', 'left_hip'), color=[51, 153, 255]),
        3: dict(link=('left_hip', 'left_knee'), color=[0, 255, 0]),
        4: dict(link=('left_knee', 'left_ankle'), color=[0, 255, 0]),
        5: dict(link=('right_wrist', 'right_elbow'), color=[255, 128, 0]),
        6: dict(link=('right_elbow', 'right_shoulder'), color=[255, 128, 0]),
        7: dict(link=('right_shoulder', 'neck'), color=[51, 153, 255]),
        8: dict(link=('left_shoulder', 'neck'), color=[51, 153, 255]),
        9: dict(link=('left_shoulder', 'left_elbow'), color=[0, 255, 0]),
        10: dict(link=('left_elbow', 'left_wrist'), color=[0, 255, 0]),
        11: dict(link=('neck', 'head_top'), color=[51, 153, 255]),
        12: dict(link=('right_shoulder', 'right_hip'), color=[51, 153, 255]),
        13: dict(link=('left_shoulder', 'left_hip'), color=[51, 153, 255]),
    },
    joint_weights=[1.0] * 14,
    # COCO's for the joints it has; neck and head top as in CrowdPose, which has the same 14 joints
    sigmas=[
        *(0.089, 0.087, 0.107, 0.107, 0.087, 0.089),  # ankle, knee, hip, hip, knee, ankle
        *(0.062, 0.072, 0.079, 0.079, 0.072, 0.062),  # wrist, elbow, shoulder, and back
        *(0.079, 0.079),  # neck, head top
    ],
)
